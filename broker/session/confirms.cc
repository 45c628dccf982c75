#include "broker/session/confirms.h"

#include <algorithm>
#include <bit>

namespace sluice::broker {

void Confirms::published(VirtualHost& host, ShardSet shards, ShardSet settled_on) {
  shards |= settled_on;
  // Their mail is behind that of the last group.
  if ((settled_on & ~host.here()) != 0) group_.reset();
  uint64_t tag = next_tag_++;
  uint64_t batch = host.journal().batch_number();
  uint64_t flush = host.courier().flush_number();
  if (group_ == nullptr || group_->shards != shards || group_->batch != batch ||
      group_->flush != flush) {
    group_ = std::make_shared<Group>(Group{shards, batch, flush, std::popcount(shards), {}});
    host.when_durable(shards, [self = shared_from_this(), group = group_] {
      if (--group->missing > 0) return;
      for (const Range& range : group->ranges) self->mark(range.first, range.end);
      if (self->due_) self->due_();
    });
  }
  auto& ranges = group_->ranges;
  if (!ranges.empty() && ranges.back().end == tag) {
    ++ranges.back().end;
  } else {
    ranges.push_back({tag, tag + 1});
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
