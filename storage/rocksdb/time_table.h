#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <rocksdb/write_batch.h>

#include "storage/rocksdb/body_table.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/watermarks.h"
#include "storage/store.h"

namespace sluice::storage {

// The families of delayed messages and of deduplication ids (storage/FORMAT.md, "Time"): what a
// write of the committer does about them, and how they are read.
//
// A row of a schedule is deleted singly when its message moves on; whoever reads the schedule
// begins where the first row may be, so what was deleted before it costs nobody anything. An id is
// never deleted: its queue's dedup watermark passes it, and the filter drops it.
//
// The committer's thread builds; the rest may be called from any thread once load() is through.
class TimeTable {
 public:
  // What is passed is borrowed.
  TimeTable(Engine& engine, const Watermarks& watermarks, BodyTable& bodies)
      : engine_(engine), watermarks_(watermarks), bodies_(bodies) {}

  Expected<> load();
  // Whether anything of the queue is there physically.
  bool holds(QueueId queue) const;
  // Those that are not dropped and have anything here, in no order, some more than once.
  Expected<std::vector<QueueId>> queues() const;

  // Adds the batch's changes to a write, but for queues that are dropped in it. Bodies are counted
  // in between their table's begin() and finish(), so after the batch's appends.
  rocksdb::Status build(rocksdb::WriteBatch& write, const Batch& batch,
                        const std::function<bool(QueueId)>& is_dropped);
  // The batch is in the log; in it all is synced.
  void written(const Batch& batch);
  void all_synced() { engine_.dedup_watermarks.all_synced(); }

  // See Store.
  Expected<SchedulePosition> schedule(QueueId queue) const;
  Expected<bool> expiring(QueueId queue) const;
  Expected<DedupPosition> dedup(QueueId queue) const;
  Expected<std::vector<ScheduledMessage>> read_schedule(QueueId queue, ScheduleKey from,
                                                        size_t count_max, size_t bytes_max) const;
  Expected<std::optional<DedupEntry>> find_id(QueueId queue, const DedupHash& id) const;

 private:
  bool is_dropped(QueueId queue) const { return watermarks_.get(queue) == kDropped; }

  Engine& engine_;
  const Watermarks& watermarks_;
  BodyTable& bodies_;
};

}  // namespace sluice::storage
