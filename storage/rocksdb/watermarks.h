#pragma once

#include <mutex>
#include <unordered_map>

#include "storage/store.h"

namespace sluice::storage {

// The watermark of a dropped queue: everything in it is consumed. No RocksDB range deletion, which
// would leave tombstones (and whose iterators in 7.8 are young).
inline constexpr Sequence kDropped = ~Sequence{0};

// How far each queue is consumed, durably: a watermark enters after the write that holds it was
// synced, because compaction throws away what lies behind it without leaving a trace.
//
// The committer writes it; readers and RocksDB's background threads read it. Hence the mutex: those
// threads are not ours and take it once for each queue they come across, not for each message.
class Watermarks {
 public:
  // 1 where the queue has none.
  Sequence get(QueueId queue) const {
    std::lock_guard lock(mutex_);
    auto found = by_queue_.find(queue);
    return found == by_queue_.end() ? 1 : found->second;
  }

  // Never moves back.
  void advance(QueueId queue, Sequence watermark) {
    std::lock_guard lock(mutex_);
    Sequence& current = by_queue_[queue];
    if (watermark > current) current = watermark;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<QueueId, Sequence> by_queue_;
};

}  // namespace sluice::storage
