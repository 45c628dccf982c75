#pragma once

#include <map>

#include "base/check.h"
#include "storage/store.h"

namespace sluice::broker {

// Which positions of a queue are consumed: all below watermark(), and ranges above it. Costs memory
// for each gap, not for each position.
class SequenceSet {
 public:
  using Sequence = storage::Sequence;

  Sequence watermark() const { return watermark_; }
  // How many ranges lie above the watermark.
  size_t range_count() const { return ahead_.size(); }

  // Sets the start; only while nothing was added.
  void start_at(Sequence watermark) {
    CHECK(ahead_.empty());
    watermark_ = watermark;
  }

  // Adds [first, end), none of which may be in the set.
  void add(Sequence first, Sequence end) {
    if (first == end) return;
    CHECK(first < end && first >= watermark_);
    auto next = ahead_.lower_bound(first);
    CHECK(next == ahead_.end() || end <= next->first);
    if (next != ahead_.end() && next->first == end) {
      end = next->second;
      next = ahead_.erase(next);
    }
    if (first == watermark_) {
      watermark_ = end;
      return;
    }
    if (next != ahead_.begin()) {
      auto previous = std::prev(next);
      CHECK(previous->second <= first);
      if (previous->second == first) {
        previous->second = end;
        return;
      }
    }
    ahead_.emplace_hint(next, first, end);
  }
  void add(Sequence sequence) { add(sequence, sequence + 1); }

 private:
  Sequence watermark_ = 1;
  std::map<Sequence, Sequence> ahead_;  // first -> end; apart from each other and the watermark
};

}  // namespace sluice::broker
