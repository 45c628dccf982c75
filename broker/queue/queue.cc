#include "broker/queue/queue.h"

#include <algorithm>

#include "base/check.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

Queue::Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings)
    : settings_(std::move(settings)),
      journal_(journal),
      policy_(settings_.policy),
      lanes_(journal, resident, id, policy_.priority_max, durable(), [this] {
        auto keep = shared_from_this();
        pump();
      }) {}

Accepted Queue::publish(storage::RecordPtr record, Placing placing) {
  bool may_refuse = policy_.overflow != Overflow::kDropHead;
  if (may_refuse && overflows(1, record->body_bytes())) {
    if (policy_.overflow == Overflow::kRejectPublishDlx) {
      Entry refused;
      refused.record = std::move(record);
      die(std::move(refused), DeathReason::kMaxlen);
    }
    return Accepted::kRefused;
  }
  bool stored = lanes_.push(std::move(record), placing.priority, placing.persistent);
  pump();
  trim();
  return stored ? Accepted::kStored : Accepted::kInRam;
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
  Backlog* lane = lanes_.load_next();
  if (lane == nullptr) return std::nullopt;
  return take_out(*lane);
}

void Queue::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (!takers_.empty() && ready_count() > 0) {
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
