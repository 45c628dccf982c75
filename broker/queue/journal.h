#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "broker/net/handles.h"
#include "broker/queue/alarms.h"
#include "broker/queue/limits.h"
#include "storage/store.h"

namespace sluice::broker {

class Backlog;

// Where an append sits while it can still be taken back.
struct AppendSlot {
  uint64_t batch = 0;  // 0: nothing was appended
  uint32_t index = 0;
};

// A shard's side of the store. Changes gather in one batch while the committer is busy with the one
// before; at the end of the turn of the loop in which the committer is free, the batch is handed
// over whole. So everything that one callback changed commits together, and commits are grouped
// without a timer. Where nobody waits for it to be durable (acknowledgements, results, publishes
// without confirms), the batch may gather for kQuietCommitMs more, because each sync costs as much
// as hundreds of changes.
//
// Owned by the shard's thread. A failed commit ends the process (see Failed): what is on disk is
// unknown, only a restart can tell.
class Journal {
 public:
  // Called on the shard's thread when a commit failed, at most once. Must not return to normal
  // work.
  using Failed = std::function<void(const Error&)>;

  Journal(storage::Store& store, uv_loop_t* loop, Failed failed,
          const Clock& clock = Clock::machine());

  AppendSlot append(storage::QueueId queue, storage::Sequence sequence, storage::RecordPtr record);
  // A part of an external body.
  void put_chunk(storage::Batch::Chunk chunk);
  // Takes an append back if it has not been handed over; true where it will never be written.
  bool cancel(const AppendSlot& slot);

  // The same for a message that is not due yet.
  AppendSlot schedule(storage::QueueId queue, storage::ScheduleKey key, storage::RecordPtr record);
  bool cancel_scheduled(const AppendSlot& slot);

  // Takes back the attempts noted for a message whose append was cancelled.
  void forget_attempts(storage::QueueId queue, storage::Sequence sequence);
  // Drops all of a queue, also what still waits to be written for it.
  void drop(storage::QueueId queue);

  Alarms& alarms() { return alarms_; }

  // The batch that gathers: for everything but appends.
  storage::Batch& changes() { return *gathering_; }
  // Changes whenever a batch is handed over: work of one number commits together.
  uint64_t batch_number() const { return batch_number_; }

  // The backlog is asked for what changed when the batch is handed over.
  void mark_changed(std::shared_ptr<Backlog> backlog) { changed_.push_back(std::move(backlog)); }

  // Whether an append is on disk (or was never made).
  bool committed(const AppendSlot& slot) const {
    return slot.batch < (in_flight_ ? batch_number_ - 1 : batch_number_);
  }

  using Page = Expected<std::vector<storage::StoredMessage>>;
  // Reads committed messages on another thread and calls back on a later turn.
  void read(storage::QueueId queue, storage::SequenceRange range, size_t count_max,
            size_t bytes_max, std::function<void(Page)> done);
  // The same at once: blocks the shard.
  Page read_now(storage::QueueId queue, storage::SequenceRange range, size_t count_max,
                size_t bytes_max) {
    return store_.read(queue, range, count_max, bytes_max);
  }
  // Delayed messages that are committed, read on another thread.
  void read_schedule(storage::QueueId queue, storage::ScheduleKey from, size_t count_max,
                     size_t bytes_max,
                     std::function<void(Expected<std::vector<storage::ScheduledMessage>>)> done);
  // Reads one committed row, now: mostly from RAM.
  Expected<std::optional<storage::DedupEntry>> find_id(storage::QueueId queue,
                                                       const storage::DedupHash& id) {
    return store_.find_id(queue, id);
  }
  // What should be in the store is not: ends the process, as a failed commit does.
  void fail_reading(const Error& error) { failed_(error); }

  // Calls back when all that gathered up to now is durable, in order; at the end of this turn where
  // nothing needs writing.
  void when_durable(std::function<void()> callback) { waiting_.push_back(std::move(callback)); }

  // True where a commit is being written or changes wait for one.
  bool busy() const {
    return in_flight_ || !waiting_.empty() || !changed_.empty() || !gathering_->empty();
  }
  // True where turn_end() would do something now.
  bool can_hand_over() const { return !in_flight_ && due(); }
  // Messages' bytes not yet durable: publishers are held back when it is large.
  size_t unwritten_bytes() const { return gathering_bytes_ + in_flight_bytes_; }

  // Hands the batch over if the committer is free and the batch is due.
  void turn_end();

 private:
  void committed();
  void count(size_t more, size_t less);
  bool due() const { return !waiting_.empty() || quiet_over_ || gathering_bytes_ > kQuietBytesMax; }

  storage::Store& store_;
  uv_loop_t* const loop_;
  Failed failed_;
  net::Wakeup wakeup_;
  net::Timer quiet_timer_;
  Alarms alarms_;
  bool quiet_over_ = false;

  uint64_t batch_number_ = 1;
  std::unique_ptr<storage::Batch> gathering_ = std::make_unique<storage::Batch>();
  size_t gathering_bytes_ = 0;
  std::vector<std::function<void()>> waiting_;
  std::vector<std::shared_ptr<Backlog>> changed_;

  bool in_flight_ = false;
  size_t in_flight_bytes_ = 0;
  std::vector<std::function<void()>> in_flight_waiting_;
  std::unique_ptr<storage::Batch> spare_;

  // What the committer's thread leaves for ours; the mutex guards only this hand-over.
  struct Result {
    std::mutex mutex;
    std::unique_ptr<storage::Batch> batch;
    Expected<> outcome;
  };
  std::shared_ptr<Result> result_ = std::make_shared<Result>();
};

}  // namespace sluice::broker
