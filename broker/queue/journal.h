#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "broker/net/handles.h"
#include "storage/store.h"

namespace sluice::broker {

class Queue;

// How long changes may gather that nobody waits for, and how many bytes of messages.
inline constexpr uint64_t kQuietCommitMs = 5;
inline constexpr size_t kQuietBytesMax = 1u << 20;

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

  Journal(storage::Store& store, uv_loop_t* loop, Failed failed);

  AppendSlot append(storage::QueueId queue, storage::Sequence sequence, storage::RecordPtr record);
  // A part of an external body.
  void put_chunk(storage::Batch::Chunk chunk);
  // Takes an append back if it has not been handed over; true where it will never be written.
  bool cancel(const AppendSlot& slot);

  // Takes back the attempts noted for a message whose append was cancelled.
  void forget_attempts(storage::QueueId queue, storage::Sequence sequence);
  // Drops all of a queue, also what still waits to be written for it.
  void drop(storage::QueueId queue);

  // The batch that gathers: for everything but appends.
  storage::Batch& changes() { return *gathering_; }
  // Changes whenever a batch is handed over: work of one number commits together.
  uint64_t batch_number() const { return batch_number_; }

  // The queue's consumed positions are asked for when the batch is handed over.
  void mark_consumed(std::shared_ptr<Queue> queue) { consumed_.push_back(std::move(queue)); }

  // Calls back when all that gathered up to now is durable, in order; at the end of this turn where
  // nothing needs writing.
  void when_durable(std::function<void()> callback) { waiting_.push_back(std::move(callback)); }

  // True where a commit is being written or changes wait for one.
  bool busy() const {
    return in_flight_ || !waiting_.empty() || !consumed_.empty() || !gathering_->empty();
  }
  // True where turn_end() would do something now.
  bool can_hand_over() const { return !in_flight_ && due(); }
  // Messages' bytes not yet durable: publishers are held back when it is large.
  size_t unwritten_bytes() const { return gathering_bytes_ + in_flight_bytes_; }

  // Hands the batch over if the committer is free and the batch is due.
  void turn_end();

 private:
  void committed();
  bool due() const { return !waiting_.empty() || quiet_over_ || gathering_bytes_ > kQuietBytesMax; }

  storage::Store& store_;
  Failed failed_;
  net::Wakeup wakeup_;
  net::Timer quiet_timer_;
  bool quiet_over_ = false;

  uint64_t batch_number_ = 1;
  std::unique_ptr<storage::Batch> gathering_ = std::make_unique<storage::Batch>();
  size_t gathering_bytes_ = 0;
  std::vector<std::function<void()>> waiting_;
  std::vector<std::shared_ptr<Queue>> consumed_;

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
