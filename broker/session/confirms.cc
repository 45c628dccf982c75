#include "broker/session/confirms.h"

#include <algorithm>

namespace sluice::broker {

void Confirms::published(Journal& journal) {
  uint64_t tag = next_tag_++;
  if (gathering_ == nullptr || gathering_batch_ != journal.batch_number()) {
    gathering_ = std::make_shared<std::vector<Range>>();
    gathering_batch_ = journal.batch_number();
    journal.when_durable([self = shared_from_this(), ranges = gathering_] {
      for (const Range& range : *ranges) self->mark(range.first, range.end);
      if (self->due_) self->due_();
    });
  }
  if (!gathering_->empty() && gathering_->back().end == tag) {
    ++gathering_->back().end;
  } else {
    gathering_->push_back({tag, tag + 1});
  }
}

void Confirms::mark(uint64_t first, uint64_t end) {
  if (!due_ranges_.empty() && due_ranges_.back().end == first) {
    due_ranges_.back().end = end;
  } else {
    due_ranges_.push_back({first, end});
  }
}

uint64_t Confirms::flush() {
  if (due_ranges_.empty() || !send_) return 0;
  uint64_t count = 0;
  std::ranges::sort(due_ranges_, {}, &Range::first);
  for (const Range& range : due_ranges_) {
    count += range.end - range.first;
    if (range.first != oldest_) {
      for (uint64_t tag = range.first; tag < range.end; ++tag) send_(tag, false);
      ahead_.emplace(range.first, range.end);
      continue;
    }
    send_(range.end - 1, range.end - range.first > 1);
    oldest_ = range.end;
    while (!ahead_.empty() && ahead_.begin()->first == oldest_) {
      oldest_ = ahead_.begin()->second;
      ahead_.erase(ahead_.begin());
    }
  }
  due_ranges_.clear();
  return count;
}

}  // namespace sluice::broker
