#include "broker/queue/queue.h"

#include <algorithm>

#include "base/check.h"
#include "broker/amqp/properties.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

Queue::Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings)
    : journal_(journal),
      settings_(std::move(settings)),
      backlog_(std::make_shared<Backlog>(journal, resident, id, durable(), [this] {
        auto keep = shared_from_this();
        pump();
      })) {
  if (settings_.message_ttl_ms) make_expiry();
  if (settings_.dedup) dedup_ = std::make_unique<DedupWindow>(journal, id, *settings_.dedup);
  if (settings_.unused_ttl_ms) {
    unused_timer_ =
        std::make_unique<UnusedTimer>(journal.alarms(), *settings_.unused_ttl_ms, [this] {
          auto unused = unused_;
          if (unused) unused();
        });
  }
}

bool Queue::publish(storage::RecordPtr record, bool persistent, std::string_view dedup_id) {
  if (dedup_ != nullptr && !dedup_id.empty()) {
    if (dedup_->contains(dedup_id)) {
      ++duplicate_count_;
      return persistent && durable();
    }
    dedup_->add(dedup_id);
  }
  if (record->timed()) [[unlikely]] {
    if (record->ready_at_ms() != 0) {
      schedule().push(std::move(record));
      return persistent && durable();
    }
    note_expiring();
  }
  return enqueue(std::move(record), persistent, /*fresh=*/true);
}

// A `fresh` message is given to a consumer that waits for it even where it is to live for no time.
bool Queue::enqueue(storage::RecordPtr record, bool persistent, bool fresh) {
  fresh = fresh && expiry_ != nullptr && ready_count() == 0;
  bool stored = backlog_->push(std::move(record), persistent);
  pump(fresh);
  return stored;
}

Schedule& Queue::schedule() {
  if (schedule_ == nullptr) {
    schedule_ = std::make_shared<Schedule>(journal_, id(), [this](storage::RecordPtr record) {
      auto keep = shared_from_this();
      if (record->expires_at_ms() != 0) note_expiring();
      bool persistent = amqp::is_persistent(record->properties());
      enqueue(std::move(record), persistent, /*fresh=*/false);
    });
  }
  return *schedule_;
}

void Queue::make_expiry() {
  expiry_ = std::make_unique<Expiry>(journal_.alarms(), settings_.message_ttl_ms, [this] {
    auto keep = shared_from_this();
    pump();
  });
}

// From now on a message of it has its own time, also after a restart, which reads none to know.
void Queue::note_expiring() {
  if (expiry_ != nullptr) return;
  make_expiry();
  if (durable()) journal_.changes().expiring_queues.push_back(id());
}

Entry Queue::take_out() {
  ++unacked_count_;
  return backlog_->pop();
}

std::optional<Entry> Queue::take() {
  used();
  if (expiry_ == nullptr) {
    if (!backlog_->load_next()) return std::nullopt;
    return take_out();
  }
  while (backlog_->load_next()) {
    bool expired = expiry_->is_expired(*backlog_->next().record);
    Entry entry = take_out();
    if (!expired) {
      pump();  // another one is the first now
      return entry;
    }
    expire(std::move(entry));
    if (removed_) break;
  }
  return std::nullopt;
}

// Ends first messages that have expired. True where the first one may be handed out now.
bool Queue::drop_expired() {
  for (size_t left = kExpiriesPerTurn; ready_count() > 0 && backlog_->next_is_resident(); --left) {
    if (!expiry_->is_expired(*backlog_->next().record)) return true;
    if (left == 0) {
      expiry_->wake_soon();
      return false;
    }
    expire(take_out());
    if (removed_) return false;
  }
  return false;
}

void Queue::expire(Entry entry) {
  ++expired_count_;
  if (expired_) {
    expired_(*this, std::move(entry));
  } else {
    settle(entry);
  }
}

void Queue::pump(bool fresh) {
  if (pumping_) return;
  pumping_ = true;
  while (ready_count() > 0 && !takers_.empty()) {
    if (expiry_ != nullptr && !std::exchange(fresh, false)) {
      if (!drop_expired()) break;
      if (takers_.empty()) break;
    }
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
  if (expiry_ != nullptr && ready_count() > 0 && drop_expired()) {
    expiry_->wait_for(*backlog_->next().record);
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
  if (unused_timer_ != nullptr) unused_timer_->set_in_use(true);
  had_consumers_ = true;
  if (exclusive) exclusive_consumer_ = consumer;
  consumer_ready(consumer);
}

void Queue::remove_consumer(Consumer* consumer) {
  consumers_.erase(consumer);
  if (consumer->turn_) takers_.erase(*consumer->turn_);
  consumer->turn_.reset();
  if (exclusive_consumer_ == consumer) exclusive_consumer_ = nullptr;
  if (unused_timer_ != nullptr && consumers_.empty()) unused_timer_->set_in_use(false);
}

void Queue::consumer_ready(Consumer* consumer) {
  if (!consumer->turn_) consumer->turn_ = takers_.insert(takers_.end(), consumer);
  pump();
}

Expected<> Queue::recover(storage::Store& store) {
  if (auto done = backlog_->recover(store); !done) return done;
  auto position = store.schedule(id());
  if (!position) return std::unexpected(position.error());
  if (position->count > 0 || position->next_number > 1) schedule().recover(*position);
  auto expiring = store.expiring(id());
  if (!expiring) return std::unexpected(expiring.error());
  if (*expiring && expiry_ == nullptr) make_expiry();
  if (expiry_ != nullptr && ready_count() > 0) expiry_->wake_soon();
  if (dedup_ != nullptr) {
    auto window = store.dedup(id());
    if (!window) return std::unexpected(window.error());
    dedup_->recover(*std::move(window));
  }
  return {};
}

void Queue::remove() {
  CHECK(!removed_);
  if (schedule_ != nullptr) schedule_->drop();
  expiry_.reset();
  unused_timer_.reset();
  // Where the queue is not durable these rows may be all that is stored of it.
  if (!durable() && (schedule_ != nullptr || dedup_ != nullptr)) journal_.drop(id());
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
