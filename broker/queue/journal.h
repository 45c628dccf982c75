#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
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
// A batch that is tied to another shard's (storage::Tie) may have to wait for that one, so what
// gathers behind it is handed over too: no two shards wait for each other.
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

  // Writes how often a message came back, with the message itself where that is still to be
  // written.
  void note_attempts(const AppendSlot& slot, const storage::Batch::Attempts& attempts);
  // Drops all of a queue, also what still waits to be written for it.
  void drop(storage::QueueId queue);

  uv_loop_t* loop() const { return loop_; }
  Alarms& alarms() { return alarms_; }

  // The batch that gathers: for everything but appends.
  storage::Batch& changes() { return *gathering_; }
  // Changes whenever a batch is handed over: work of one number commits together.
  uint64_t batch_number() const { return batch_number_; }

  // The backlog is asked for what changed when the batch is handed over.
  void mark_changed(std::shared_ptr<Backlog> backlog) { changed_.push_back(std::move(backlog)); }

  // What gathers is written together with what other shards' journals are given the tie for.
  void tie(std::shared_ptr<storage::Tie> tie) { gathering_->ties.push_back(std::move(tie)); }
  // A batch of definitions was handed to the store: what is waited for from now on comes after it.
  void follow() { follows_ = true; }

  // Whether an append is on disk (or was never made).
  bool committed(const AppendSlot& slot) const {
    return slot.batch < batch_number_ - in_flight_.size();
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
  // See Store::group(); blocks the shard too.
  Expected<std::vector<storage::Sequence>> group_now(storage::QueueId queue, uint64_t group,
                                                     storage::SequenceRange range,
                                                     size_t count_max) {
    return store_.group(queue, group, range, count_max);
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
    return !in_flight_.empty() || follows_ || !waiting_.empty() || !changed_.empty() ||
           !gathering_->empty();
  }
  // True where turn_end() would do something now.
  bool can_hand_over() const { return is_free() && due(); }
  // Messages' bytes not yet durable: publishers are held back when it is large. From any thread.
  size_t unwritten_bytes() const { return unwritten_bytes_.load(std::memory_order_relaxed); }

  // Hands the batch over if the committer is free and the batch is due.
  void turn_end();

 private:
  void committed();
  void count(size_t more, size_t less);
  bool is_free() const { return in_flight_.empty() || tied_in_flight_ > 0; }
  bool due() const {
    return !waiting_.empty() || quiet_over_ || gathering_bytes_ > kQuietBytesMax ||
           !gathering_->ties.empty();
  }

  storage::Store& store_;
  uv_loop_t* const loop_;
  const uint64_t source_;
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
  bool follows_ = false;

  struct InFlight {
    size_t bytes;
    bool tied;
    std::vector<std::function<void()>> waiting;
  };
  std::deque<InFlight> in_flight_;  // one, or those behind one with ties
  size_t tied_in_flight_ = 0;
  std::atomic<size_t> unwritten_bytes_ = 0;
  std::unique_ptr<storage::Batch> spare_;

  // What the committer's thread leaves for ours; the mutex guards only this hand-over.
  struct Results {
    struct Result {
      std::unique_ptr<storage::Batch> batch;
      Expected<> outcome;
    };
    std::mutex mutex;
    std::vector<Result> list;
  };
  std::shared_ptr<Results> results_ = std::make_shared<Results>();
};

}  // namespace sluice::broker
