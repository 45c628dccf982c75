#include "broker/queue/queue.h"

#include <algorithm>

#include "base/check.h"
#include "broker/amqp/properties.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

Queue::Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings)
    : settings_(std::move(settings)),
      journal_(journal),
      policy_(settings_.policy),
      lanes_(journal, resident, id, policy_.priority_max, durable(), [this] {
        auto keep = shared_from_this();
        pump();
      }) {
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

Accepted Queue::publish(storage::RecordPtr record, Placing placing, std::string_view dedup_id) {
  Accepted safe = placing.persistent && durable() ? Accepted::kStored : Accepted::kInRam;
  bool remembers = dedup_ != nullptr && !dedup_id.empty();
  if (remembers && dedup_->contains(dedup_id)) {
    ++duplicate_count_;
    return safe;
  }
  bool may_refuse = policy_.overflow != Overflow::kDropHead;
  if (may_refuse && overflows(1, record->body_bytes())) {
    if (policy_.overflow == Overflow::kRejectPublishDlx) {
      Entry refused;
      refused.record = std::move(record);
      die(std::move(refused), DeathReason::kMaxlen);
    }
    return Accepted::kRefused;
  }
  if (remembers) dedup_->add(dedup_id);
  if (record->timed()) [[unlikely]] {
    if (record->ready_at_ms() != 0) {
      schedule().push(std::move(record));
      return safe;
    }
    note_expiring();
  }
  return enqueue(std::move(record), placing, /*fresh=*/true);
}

// A `fresh` message is given to a consumer that waits for it even where it is to live for no time.
Accepted Queue::enqueue(storage::RecordPtr record, Placing placing, bool fresh) {
  fresh = fresh && expiry_ != nullptr && ready_count() == 0;
  bool stored = lanes_.push(std::move(record), placing.priority, placing.persistent);
  pump(fresh);
  trim();
  return stored ? Accepted::kStored : Accepted::kInRam;
}

Schedule& Queue::schedule() {
  if (schedule_ == nullptr) {
    schedule_ = std::make_shared<Schedule>(journal_, id(), [this](storage::RecordPtr record) {
      auto keep = shared_from_this();
      if (record->expires_at_ms() != 0) note_expiring();
      auto properties = amqp::Properties::of_stored(record->properties());
      Placing placing{.persistent = amqp::is_persistent(record->properties()),
                      .priority = properties.priority.value_or(0)};
      enqueue(std::move(record), placing, /*fresh=*/false);
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

// Whether it is too long with so much more.
bool Queue::overflows(uint64_t count, uint64_t bytes) const {
  return (policy_.count_max && ready_count() + count > *policy_.count_max) ||
         (policy_.bytes_max && ready_bytes() + bytes > *policy_.bytes_max);
}

void Queue::change_policy(const QueuePolicy& policy) {
  CHECK(policy.priority_max == policy_.priority_max);
  policy_ = policy;
  trim();
}

// A share of what is too much; what has to be read, once. The next share follows when this one is
// durable, or with the next message.
void Queue::trim() {
  if (policy_.overflow != Overflow::kDropHead || trimming_ || removed_) return;
  trimming_ = true;
  for (size_t dropped = 0; overflows(0, 0); ++dropped) {
    Backlog* lane = lanes_.lowest();
    if (dropped == kDropsPerTurn || (dropped > 0 && !lane->oldest_is_resident())) {
      trim_later();
      break;
    }
    auto entry = lane->pop_oldest();
    if (!entry) break;  // it can not be read: the process ends
    ++unacked_count_;
    die(*std::move(entry), DeathReason::kMaxlen);
    if (removed_) break;
  }
  trimming_ = false;
}

void Queue::trim_later() {
  if (std::exchange(trims_later_, true)) return;
  journal_.when_durable([weak = weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->trims_later_ = false;
    self->trim();
  });
}

void Queue::die(Entry entry, DeathReason reason) {
  ++dead_[static_cast<size_t>(reason)];
  if (dead_letter_) {
    dead_letter_(shared_from_this(), std::move(entry), reason);
  } else if (entry.sequence != 0) {
    settle(entry);
  }
}

Entry Queue::take_out(Backlog& lane) {
  ++unacked_count_;
  return lane.pop();
}

std::optional<Entry> Queue::take() {
  used();
  while (Backlog* lane = lanes_.load_next()) {
    bool expired = expiry_ != nullptr && expiry_->is_expired(*lane->next().record);
    Entry entry = take_out(*lane);
    if (!expired) {
      if (expiry_ != nullptr) pump();  // another one is the first now
      return entry;
    }
    die(std::move(entry), DeathReason::kExpired);
    if (removed_) break;
  }
  return std::nullopt;
}

// Ends first messages that have expired. True where the first one may be handed out now.
bool Queue::drop_expired() {
  size_t left = kExpiriesPerTurn;
  for (Backlog* lane; (lane = lanes_.next_resident()) != nullptr; --left) {
    if (!expiry_->is_expired(*lane->next().record)) return true;
    if (left == 0) {
      expiry_->wake_soon();
      return false;
    }
    die(take_out(*lane), DeathReason::kExpired);
    if (removed_) return false;
  }
  return false;
}

void Queue::pump(bool fresh) {
  if (pumping_) return;
  pumping_ = true;
  while (!takers_.empty() && ready_count() > 0) {
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
    Backlog* lane = lanes_.next_resident();
    if (lane == nullptr) break;
    takers_.splice(takers_.end(), takers_, takers_.begin());
    consumer->take(*this, take_out(*lane));
  }
  if (expiry_ != nullptr && drop_expired()) {
    expiry_->wait_for(*lanes_.next_resident()->next().record);
  }
  pumping_ = false;
}

void Queue::settle(const Entry& entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  if (lanes_.of(entry).settle(entry)) pump();
}

void Queue::requeue(Entry entry, Counts counts) {
  if (removed_) return;
  if (counts == Counts::kYes) {
    ++entry.attempts;
    if (policy_.delivery_limit && entry.attempts > *policy_.delivery_limit) {
      die(std::move(entry), DeathReason::kDeliveryLimit);
      return;
    }
    note_attempts(entry);
  }
  entry.redelivered = true;
  give_back(std::move(entry));
}

void Queue::give_back(Entry entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  lanes_.of(entry).put_back(std::move(entry));
  pump();
  trim();
}

void Queue::note_attempts(const Entry& entry) {
  if (!removed_) lanes_.of(entry).note_attempts(entry);
}

void Queue::release(Entry& entry) const {
  if (!removed_) lanes_.of(entry).release(entry);
}

bool Queue::is_on_disk(const Entry& entry) const {
  return !removed_ && lanes_.of(entry).is_on_disk(entry);
}

bool Queue::reload(Entry& entry) {
  if (entry.record != nullptr) return true;
  return !removed_ && lanes_.of(entry).reload(entry);
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

Expected<> Queue::recover(storage::Store& store, std::span<const storage::QueueId> stored) {
  if (auto done = lanes_.recover(store, stored); !done) return done;
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
  lanes_.drop();
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
