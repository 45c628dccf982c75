#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include <rocksdb/write_batch.h>

#include "storage/limits.h"
#include "storage/rocksdb/body_table.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/watermarks.h"
#include "storage/store.h"

namespace sluice::storage {

// The thread that owns every write. It takes the batches that wait, in their order, writes them as
// one, syncs once, makes the new watermarks known and calls back; what arrives meanwhile is the
// next write. It sleeps on a condition variable when nothing waits.
//
// commit() may be called from any thread; stop() and the destructor from one that is not the
// committer's. What it is made with is borrowed.
class Committer {
 public:
  // After `idle` without a commit what is in memory is flushed.
  Committer(Engine& engine, Watermarks& watermarks, BodyTable& bodies,
            std::chrono::milliseconds idle = std::chrono::milliseconds(kIdleFlushMs));
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
  };

  // What the committer remembers of a queue that it met.
  struct Queue {
    Sequence attempts_end = 1;  // no attempts are stored from here on
    Sequence reclaimed = 1;     // watermark when its files were last looked through
  };

  void run();
  bool take(std::vector<Job>& jobs);
  void settle();
  void write(std::vector<Job>& jobs);
  rocksdb::Status build(const std::vector<Job>& jobs);
  void plan(const std::vector<Job>& jobs);
  rocksdb::Status build_append(const Batch::Append& append);
  rocksdb::Status build_attempts(const Batch::Attempts& attempts);
  rocksdb::Status build_advances();
  rocksdb::Status build_remove(const Batch::Remove& remove);
  Sequence watermark_after(QueueId queue);
  Queue& queue_of(QueueId queue);
  void publish();
  void reclaim(QueueId queue, Sequence watermark);

  Engine& engine_;
  Watermarks& watermarks_;
  BodyTable& bodies_;

  std::mutex mutex_;  // guards what follows; the rest is the committer thread's
  std::condition_variable wake_;
  std::deque<Job> waiting_;
  bool stopping_ = false;
  bool released_ = false;  // a body is not held any more

  const std::chrono::milliseconds idle_;
  bool written_ = false;         // since the last settle()
  std::optional<Error> failed_;  // read by stop() once the thread has ended
  std::unordered_map<QueueId, Queue> queues_;
  // Of the write that is being built.
  rocksdb::WriteBatch write_;
  std::unordered_map<QueueId, Sequence> advances_;
  // The queue that watermark_after() met last; 0 is none.
  QueueId cached_queue_ = 0;
  Sequence cached_watermark_ = 1;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace sluice::storage
