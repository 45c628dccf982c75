#include "broker/queue/journal.h"

#include "base/check.h"
#include "broker/queue/backlog.h"

namespace sluice::broker {

Journal::Journal(storage::Store& store, uv_loop_t* loop, Failed failed)
    : store_(store),
      loop_(loop),
      failed_(std::move(failed)),
      wakeup_(loop, [this] { committed(); }),
      quiet_timer_(loop, [this] { quiet_over_ = true; }) {}

AppendSlot Journal::append(storage::QueueId queue, storage::Sequence sequence,
                           storage::RecordPtr record) {
  gathering_bytes_ += record->bytes().size();
  gathering_->appends.push_back({queue, sequence, std::move(record), 0});
  return {batch_number_, static_cast<uint32_t>(gathering_->appends.size() - 1)};
}

void Journal::put_chunk(storage::Batch::Chunk chunk) {
  gathering_bytes_ += chunk.bytes.size();
  gathering_->chunks.push_back(std::move(chunk));
}

bool Journal::cancel(const AppendSlot& slot) {
  if (slot.batch != batch_number_) return false;
  storage::RecordPtr& record = gathering_->appends[slot.index].record;
  CHECK(record != nullptr);
  gathering_bytes_ -= record->bytes().size();
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
  for (storage::Batch::Append& append : gathering_->appends) {
    if (append.queue != queue || append.record == nullptr) continue;
    gathering_bytes_ -= append.record->bytes().size();
    append.record.reset();
  }
  auto of_queue = [queue](const auto& change) { return change.queue == queue; };
  std::erase_if(gathering_->attempts, of_queue);
  gathering_->dropped_queues.push_back(queue);
}

void Journal::read(storage::QueueId queue, storage::SequenceRange range, size_t count_max,
                   size_t bytes_max, std::function<void(Page)> done) {
  struct Request {
    uv_work_t work;
    std::function<Page()> read;
    Page page;
    std::function<void(Page)> done;
  };
  auto* request =
      new Request{.read = [&store = store_, queue, range, count_max,
                           bytes_max] { return store.read(queue, range, count_max, bytes_max); },
                  .done = std::move(done)};
  request->work.data = request;
  int status = uv_queue_work(
      loop_, &request->work,
      [](uv_work_t* work) {
        auto* self = static_cast<Request*>(work->data);
        self->page = self->read();
      },
      [](uv_work_t* work, int) {
        std::unique_ptr<Request> self(static_cast<Request*>(work->data));
        self->done(std::move(self->page));
      });
  CHECK(status == 0);
}

void Journal::turn_end() {
  if (in_flight_) return;
  if (!due()) {
    if (busy() && !quiet_timer_.active()) quiet_timer_.start(kQuietCommitMs);
    return;
  }
  quiet_timer_.stop();
  quiet_over_ = false;
  for (const auto& backlog : changed_) backlog->collect(*gathering_);
  changed_.clear();
  if (gathering_->empty()) {
    gathering_->clear();  // cancelled appends
    ++batch_number_;
    auto ready = std::exchange(waiting_, {});
    for (auto& callback : ready) callback();
    return;
  }
  in_flight_ = true;
  ++batch_number_;
  in_flight_bytes_ = std::exchange(gathering_bytes_, 0);
  in_flight_waiting_ = std::exchange(waiting_, {});
  auto batch =
      std::exchange(gathering_, spare_ ? std::move(spare_) : std::make_unique<storage::Batch>());
  // The wakeup outlives the store's committer: the shard closes the store before its journal goes.
  store_.commit(std::move(batch), [this, result = result_](std::unique_ptr<storage::Batch> written,
                                                           Expected<> outcome) {
    {
      std::lock_guard lock(result->mutex);
      result->batch = std::move(written);
      result->outcome = std::move(outcome);
    }
    wakeup_.send();
  });
}

void Journal::committed() {
  Expected<> outcome;
  {
    std::lock_guard lock(result_->mutex);
    if (result_->batch == nullptr) return;
    spare_ = std::move(result_->batch);
    outcome = std::move(result_->outcome);
  }
  spare_->clear();
  in_flight_ = false;
  in_flight_bytes_ = 0;
  if (!outcome) {
    failed_(outcome.error());
    return;
  }
  auto ready = std::exchange(in_flight_waiting_, {});
  for (auto& callback : ready) callback();
}

}  // namespace sluice::broker
