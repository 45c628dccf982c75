#include "broker/queue/journal.h"

#include "base/check.h"
#include "broker/queue/backlog.h"

namespace sluice::broker {
namespace {

std::atomic<uint64_t> last_source = 0;

// Runs `work` on a thread of the loop's pool, and gives `done` its result on a later turn.
template <typename Result>
void run_in_pool(uv_loop_t* loop, std::function<Result()> work, std::function<void(Result)> done) {
  struct Request {
    uv_work_t request;
    std::function<Result()> work;
    std::function<void(Result)> done;
    std::optional<Result> result;
  };
  auto* request = new Request{{}, std::move(work), std::move(done), {}};
  request->request.data = request;
  int status = uv_queue_work(
      loop, &request->request,
      [](uv_work_t* at) {
        auto* self = static_cast<Request*>(at->data);
        self->result = self->work();
      },
      [](uv_work_t* at, int) {
        std::unique_ptr<Request> self(static_cast<Request*>(at->data));
        self->done(*std::move(self->result));
      });
  CHECK(status == 0);
}

}  // namespace

Journal::Journal(storage::Store& store, uv_loop_t* loop, Failed failed, const Clock& clock)
    : store_(store),
      loop_(loop),
      source_(++last_source),
      failed_(std::move(failed)),
      wakeup_(loop, [this] { committed(); }),
      quiet_timer_(loop, [this] { quiet_over_ = true; }),
      alarms_(loop, clock) {}

AppendSlot Journal::append(storage::QueueId queue, storage::Sequence sequence,
                           storage::RecordPtr record) {
  count(record->bytes().size(), 0);
  gathering_->appends.push_back({queue, sequence, std::move(record), 0});
  return {batch_number_, static_cast<uint32_t>(gathering_->appends.size() - 1)};
}

void Journal::put_chunk(storage::Batch::Chunk chunk) {
  count(chunk.bytes.size(), 0);
  gathering_->chunks.push_back(std::move(chunk));
}

bool Journal::cancel(const AppendSlot& slot) {
  if (slot.batch != batch_number_) return false;
  storage::RecordPtr& record = gathering_->appends[slot.index].record;
  CHECK(record != nullptr);
  count(0, record->bytes().size());
  record.reset();
  return true;
}

AppendSlot Journal::schedule(storage::QueueId queue, storage::ScheduleKey key,
                             storage::RecordPtr record) {
  count(record->bytes().size(), 0);
  gathering_->schedules.push_back({queue, key, std::move(record)});
  return {batch_number_, static_cast<uint32_t>(gathering_->schedules.size() - 1)};
}

bool Journal::cancel_scheduled(const AppendSlot& slot) {
  if (slot.batch != batch_number_) return false;
  storage::RecordPtr& record = gathering_->schedules[slot.index].record;
  CHECK(record != nullptr);
  count(0, record->bytes().size());
  record.reset();
  return true;
}

void Journal::note_attempts(const AppendSlot& slot, const storage::Batch::Attempts& attempts) {
  if (slot.batch == batch_number_) {
    gathering_->appends[slot.index].attempts = attempts.count;
  } else {
    gathering_->attempts.push_back(attempts);
  }
}

void Journal::drop(storage::QueueId queue) {
  auto cancel_all = [&](auto& stored) {
    for (auto& message : stored) {
      if (message.queue != queue || message.record == nullptr) continue;
      count(0, message.record->bytes().size());
      message.record.reset();
    }
  };
  cancel_all(gathering_->appends);
  cancel_all(gathering_->schedules);
  auto of_queue = [queue](const auto& change) { return change.queue == queue; };
  std::erase_if(gathering_->attempts, of_queue);
  gathering_->dropped_queues.push_back(queue);
}

void Journal::read(storage::QueueId queue, storage::SequenceRange range, size_t count_max,
                   size_t bytes_max, std::function<void(Page)> done) {
  run_in_pool<Page>(
      loop_,
      [&store = store_, queue, range, count_max, bytes_max] {
        return store.read(queue, range, count_max, bytes_max);
      },
      std::move(done));
}

// Of the gathering batch. Only this thread writes the sum.
void Journal::count(size_t more, size_t less) {
  gathering_bytes_ += more - less;
  unwritten_bytes_.store(unwritten_bytes() + more - less, std::memory_order_relaxed);
}

void Journal::read_schedule(
    storage::QueueId queue, storage::ScheduleKey from, size_t count_max, size_t bytes_max,
    std::function<void(Expected<std::vector<storage::ScheduledMessage>>)> done) {
  run_in_pool<Expected<std::vector<storage::ScheduledMessage>>>(
      loop_,
      [&store = store_, queue, from, count_max, bytes_max] {
        return store.read_schedule(queue, from, count_max, bytes_max);
      },
      std::move(done));
}

void Journal::turn_end() {
  if (!is_free()) return;
  if (!due()) {
    if (busy() && !quiet_timer_.active()) quiet_timer_.start(kQuietCommitMs);
    return;
  }
  quiet_timer_.stop();
  quiet_over_ = false;
  for (const auto& backlog : changed_) backlog->collect(*gathering_);
  changed_.clear();
  if (gathering_->empty() && in_flight_.empty() && !follows_) {
    gathering_->clear();  // cancelled appends
    ++batch_number_;
    auto ready = std::exchange(waiting_, {});
    for (auto& callback : ready) callback();
    return;
  }
  follows_ = false;
  ++batch_number_;
  bool tied = !gathering_->ties.empty();
  if (tied) ++tied_in_flight_;
  in_flight_.push_back({std::exchange(gathering_bytes_, 0), tied, std::exchange(waiting_, {})});
  gathering_->source = source_;
  auto batch =
      std::exchange(gathering_, spare_ ? std::move(spare_) : std::make_unique<storage::Batch>());
  // The wakeup outlives the store's committer: the shard closes the store before its journal goes.
  store_.commit(std::move(batch), [this, results = results_](
                                      std::unique_ptr<storage::Batch> written, Expected<> outcome) {
    {
      std::lock_guard lock(results->mutex);
      results->list.push_back({std::move(written), std::move(outcome)});
    }
    wakeup_.send();
  });
}

void Journal::committed() {
  std::vector<Results::Result> list;
  {
    std::lock_guard lock(results_->mutex);
    list.swap(results_->list);
  }
  for (auto& [batch, outcome] : list) {
    spare_ = std::move(batch);
    spare_->clear();
    InFlight done = std::move(in_flight_.front());
    in_flight_.pop_front();
    if (done.tied) --tied_in_flight_;
    unwritten_bytes_.store(unwritten_bytes() - done.bytes, std::memory_order_relaxed);
    if (!outcome) {
      failed_(outcome.error());
      return;
    }
    for (auto& callback : done.waiting) callback();
  }
}

}  // namespace sluice::broker
