#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "base/check.h"
#include "storage/store.h"

namespace sluice::broker {

// Which positions of a queue are consumed: all below watermark(), and ranges above it. Costs memory
// for each gap, not for each position.
class SequenceSet {
 public:
  using Sequence = storage::Sequence;
  using Range = storage::SequenceRange;

  Sequence watermark() const { return watermark_; }
  // How many ranges lie above the watermark.
  size_t range_count() const { return ahead_.size(); }

  // Sets the start; only while nothing was added.
  void start_at(Sequence watermark) {
    CHECK(ahead_.empty());
    watermark_ = watermark;
  }

  // Adds all of [first, end), some of which may be in the set.
  void add(Sequence first, Sequence end) {
    first = std::max(first, watermark_);
    if (first >= end) return;
    auto next = ahead_.upper_bound(first);
    if (next != ahead_.begin()) {
      auto previous = std::prev(next);
      if (previous->second >= first) {
        first = previous->first;
        end = std::max(end, previous->second);
        next = ahead_.erase(previous);
      }
    }
    while (next != ahead_.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = ahead_.erase(next);
    }
    if (first == watermark_) {
      watermark_ = end;
    } else {
      ahead_.emplace_hint(next, first, end);
    }
  }
  void add(Sequence sequence) {
    // The usual case: in order, with nothing ahead.
    if (sequence == watermark_ && ahead_.empty()) {
      ++watermark_;
    } else {
      add(sequence, sequence + 1);
    }
  }

  // The first run of positions that are not in the set, of those from `from` on and below `end`.
  // Empty (first == end) where there is none.
  Range first_gap(Sequence from, Sequence end) const {
    from = std::max(from, watermark_);
    auto next = ahead_.upper_bound(from);
    if (next != ahead_.begin()) from = std::max(from, std::prev(next)->second);
    if (from >= end) return {end, end};
    return {from, next == ahead_.end() ? end : std::min(end, next->first)};
  }

 private:
  Sequence watermark_ = 1;
  std::map<Sequence, Sequence> ahead_;  // first -> end; apart from each other and the watermark
};

}  // namespace sluice::broker
