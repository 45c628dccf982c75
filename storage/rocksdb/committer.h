#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include <rocksdb/write_batch.h>

#include "storage/limits.h"
#include "storage/rocksdb/body_table.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/rocksdb_store.h"
#include "storage/rocksdb/time_table.h"
#include "storage/rocksdb/watermarks.h"
#include "storage/store.h"

namespace sluice::storage {

struct CommitterOptions {
  SyncMode sync = SyncMode::kAlways;
  std::chrono::milliseconds sync_interval{kSyncIntervalMs};
  // After that long without a commit what is in memory is flushed.
  std::chrono::milliseconds idle{kIdleFlushMs};
};

// The thread that owns every write. It takes the batches that wait, in their order, writes them as
// one, syncs once, makes the new watermarks known and calls back; what arrives meanwhile is the
// next write. It sleeps on a condition variable when nothing waits. The sync may come later or not
// at all: see SyncMode.
//
// commit() may be called from any thread; stop() and the destructor from one that is not the
// committer's. What it is made with is borrowed.
class Committer {
 public:
  Committer(Engine& engine, Watermarks& watermarks, BodyTable& bodies, TimeTable& times,
            const CommitterOptions& options);
  ~Committer() { stop(); }

  // See Store::commit().
  void commit(std::unique_ptr<Batch> batch, Store::Committed done);

  // Writes what was handed over, then ends the thread. Nothing may be committed after it. Returns
  // the error that was final, if there was one.
  Expected<> stop();

 private:
  struct Job {
    std::unique_ptr<Batch> batch;
    Store::Committed done;
    bool blocked = false;  // see find_blocked()
  };

  // What the committer remembers of a queue that it met.
  struct Queue {
    Sequence attempts_end = 1;  // no attempts are stored from here on
    Sequence reclaimed = 1;     // watermark when its files were last looked through
  };

  void run();
  bool take(std::vector<Job>& jobs);
  bool has_job();
  void find_blocked();
  void settle();
  void write(std::vector<Job>& jobs);
  void sync();
  bool sync_is_due() const { return sync_at_ && std::chrono::steady_clock::now() >= *sync_at_; }
  void fail(const rocksdb::Status& status, std::string_view doing);
  rocksdb::Status build(const std::vector<Job>& jobs);
  void plan(const std::vector<Job>& jobs);
  rocksdb::Status build_append(const Batch::Append& append);
  rocksdb::Status build_attempts(const Batch::Attempts& attempts);
  rocksdb::Status build_advances();
  rocksdb::Status build_remove(const Batch::Remove& remove);
  Sequence watermark_after(QueueId queue);
  Queue& queue_of(QueueId queue);
  void all_synced();
  void reclaim(QueueId queue, Sequence watermark);

  Engine& engine_;
  Watermarks& watermarks_;
  BodyTable& bodies_;
  TimeTable& times_;

  std::mutex mutex_;  // guards what follows; the rest is the committer thread's
  std::condition_variable wake_;
  std::deque<Job> waiting_;
  size_t tied_count_ = 0;  // of them with ties
  bool stopping_ = false;
  bool released_ = false;  // a body is not held any more

  const CommitterOptions options_;
  // When what was written has to be synced; only where that is not at once, and something was.
  std::optional<std::chrono::steady_clock::time_point> sync_at_;
  uint64_t synced_below_;        // all changes below this sequence number are synced
  bool written_ = false;         // since the last settle()
  std::optional<Error> failed_;  // read by stop() once the thread has ended
  std::unordered_map<QueueId, Queue> queues_;
  // Of the write that is being built.
  rocksdb::WriteBatch write_;
  std::unordered_map<QueueId, Batch::Advance> advances_;
  // The queue that watermark_after() met last; 0 is none.
  QueueId cached_queue_ = 0;
  Sequence cached_watermark_ = 1;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace sluice::storage
