#include "broker/queue/queue.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::broker {

Queue::Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings)
    : settings_(std::move(settings)),
      backlog_(std::make_shared<Backlog>(journal, resident, id, durable(), [this] {
        auto keep = shared_from_this();
        pump();
      })) {}

Accepted Queue::publish(storage::RecordPtr record, Placing placing) {
  bool stored = backlog_->push(std::move(record), placing.persistent);
  pump();
  return stored ? Accepted::kStored : Accepted::kInRam;
}

Entry Queue::take_out() {
  ++unacked_count_;
  return backlog_->pop();
}

std::optional<Entry> Queue::take() {
  if (!backlog_->load_next()) return std::nullopt;
  return take_out();
}

void Queue::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (ready_count() > 0 && !takers_.empty()) {
    Consumer* consumer = takers_.front();
    if (!consumer->can_take()) {
      takers_.pop_front();
      consumer->turn_.reset();
      continue;
    }
    if (!backlog_->next_is_resident()) break;
    takers_.splice(takers_.end(), takers_, takers_.begin());
    consumer->take(*this, take_out());
  }
  pumping_ = false;
}

void Queue::settle(const Entry& entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  backlog_->settle(entry);
}

void Queue::requeue(Entry entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  entry.redelivered = true;
  backlog_->put_back(std::move(entry));
  pump();
}

void Queue::add_consumer(Consumer* consumer, bool exclusive) {
  CHECK(!removed_ && exclusive_consumer_ == nullptr && (!exclusive || consumers_.empty()));
  consumers_.insert(consumer);
  had_consumers_ = true;
  if (exclusive) exclusive_consumer_ = consumer;
  consumer_ready(consumer);
}

void Queue::remove_consumer(Consumer* consumer) {
  consumers_.erase(consumer);
  if (consumer->turn_) takers_.erase(*consumer->turn_);
  consumer->turn_.reset();
  if (exclusive_consumer_ == consumer) exclusive_consumer_ = nullptr;
}

void Queue::consumer_ready(Consumer* consumer) {
  if (!consumer->turn_) consumer->turn_ = takers_.insert(takers_.end(), consumer);
  pump();
}

void Queue::remove() {
  CHECK(!removed_);
  backlog_->drop();
  removed_ = true;
  unacked_count_ = 0;
  takers_.clear();
  exclusive_consumer_ = nullptr;
  for (Consumer* consumer : std::exchange(consumers_, {})) {
    consumer->turn_.reset();
    consumer->queue_deleted(*this);
  }
}

}  // namespace sluice::broker
