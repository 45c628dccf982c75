#pragma once

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "storage/store.h"

namespace sluice::storage {

// The watermark of a dropped queue: everything in it is consumed. No RocksDB range deletion, which
// would leave tombstones (and whose iterators in 7.8 are young).
inline constexpr Sequence kDropped = ~Sequence{0};

// How far each queue is consumed. Readers go by what was written. Compaction goes by what was
// synced, because it throws away what lies behind a watermark without leaving a trace.
//
// The committer writes it; readers and RocksDB's background threads read it. Hence the mutex: those
// threads are not ours and take it once for each queue they come across, not for each message.
class Watermarks {
 public:
  // 1 where the queue has none.
  Sequence get(QueueId queue) const { return find(queue).written; }
  Sequence synced(QueueId queue) const { return find(queue).synced; }

  // Of all queues that have one, what is synced.
  std::vector<std::pair<QueueId, Sequence>> all() const {
    std::lock_guard lock(mutex_);
    std::vector<std::pair<QueueId, Sequence>> all;
    for (const auto& [queue, watermark] : by_queue_) all.emplace_back(queue, watermark.synced);
    return all;
  }

  // Never moves back. The write that holds it is in the log.
  void advance(QueueId queue, Sequence watermark) {
    std::lock_guard lock(mutex_);
    Watermark& current = by_queue_[queue];
    if (watermark <= current.written) return;
    current.written = watermark;
    unsynced_.push_back(queue);
  }

  // All that was written up to now is synced. Returns the queues whose watermark moved since the
  // last time, some more than once.
  std::vector<QueueId> all_synced() {
    std::lock_guard lock(mutex_);
    for (QueueId queue : unsynced_) {
      Watermark& current = by_queue_[queue];
      current.synced = current.written;
    }
    return std::exchange(unsynced_, {});
  }

 private:
  struct Watermark {
    Sequence written = 1;
    Sequence synced = 1;
  };

  Watermark find(QueueId queue) const {
    std::lock_guard lock(mutex_);
    auto found = by_queue_.find(queue);
    return found == by_queue_.end() ? Watermark() : found->second;
  }

  mutable std::mutex mutex_;
  std::unordered_map<QueueId, Watermark> by_queue_;
  std::vector<QueueId> unsynced_;
};

}  // namespace sluice::storage
