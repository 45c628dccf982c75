#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "broker/amqp/table.h"
#include "broker/queue/backlog.h"
#include "broker/queue/dedup.h"
#include "broker/queue/expiry.h"
#include "broker/queue/journal.h"
#include "broker/queue/resident_set.h"
#include "broker/queue/schedule.h"
#include "storage/store.h"

namespace sluice::broker {

class Queue;

// Something that a queue pushes messages to: an AMQP consumer or a subscription.
class Consumer {
 public:
  virtual ~Consumer() = default;
  virtual bool can_take() const = 0;
  // Only called where can_take() is true. Must not add or remove consumers.
  virtual void take(Queue& queue, Entry entry) = 0;
  // The queue is deleted. The consumer is no longer the queue's when this is called.
  virtual void queue_deleted(Queue& queue) = 0;

 private:
  friend class Queue;
  // Its place among those that may take, where it is there.
  std::optional<std::list<Consumer*>::iterator> turn_;
};

struct QueueSettings {
  std::string name;
  bool durable = false;
  bool exclusive = false;
  bool auto_delete = false;
  amqp::Table arguments;
  std::optional<uint64_t> message_ttl_ms;
  std::optional<uint64_t> unused_ttl_ms;  // of the queue, where nobody uses it
  std::optional<DedupSettings> dedup;
};

// A queue: its messages (broker/queue/backlog.h), how many of them are out, its consumers, and what
// its messages and itself have to do with time, which most have nothing. An
// actor of its shard's thread. Held by shared_ptr because messages that are out outlive a deleted
// queue; after deletion, giving them back has no effect.
class Queue : public std::enable_shared_from_this<Queue> {
 public:
  Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings);

  const QueueSettings& settings() const { return settings_; }
  const std::string& name() const { return settings_.name; }
  storage::QueueId id() const { return backlog_->id(); }
  // Whether it is there after a restart. An exclusive queue ends with its connection, so it is not.
  bool durable() const { return settings_.durable && !settings_.exclusive; }
  // The connection that an exclusive queue belongs to; only compared.
  const void* owner = nullptr;
  // Set by routing to deliver a message once, however many bindings match.
  uint64_t route_mark = 0;

  // Appends a message, when it is due where its record says so. `persistent` ones are written if
  // the queue stores any; true where that is so, and the message is safe once what gathers is
  // durable. A message whose `dedup_id` is not empty and was met within the queue's window is
  // dropped: the result is that of the first one.
  bool publish(storage::RecordPtr record, bool persistent, std::string_view dedup_id = {});
  // Takes the oldest ready message; where it is not in RAM this reads it, blocking the shard.
  std::optional<Entry> take();

  // The message is done with: it leaves the queue for good.
  void settle(const Entry& entry);
  // The message goes back to its place, redelivered.
  void requeue(Entry entry);
  // Records how often a subscription tried the message.
  void note_attempts(const Entry& entry) { backlog_->note_attempts(entry); }
  // See Backlog.
  void release(Entry& entry) const { backlog_->release(entry); }
  bool reload(Entry& entry) { return backlog_->reload(entry); }

  // Removes all ready messages and returns how many there were. Those that are not due yet stay.
  size_t purge() { return backlog_->purge(); }
  // The first `count_max` ready messages, which stay; may read from disk.
  std::vector<Entry> peek(size_t count_max) { return backlog_->peek(count_max); }

  void add_consumer(Consumer* consumer, bool exclusive);
  void remove_consumer(Consumer* consumer);
  // To be called when a consumer can take again.
  void consumer_ready(Consumer* consumer);
  bool has_exclusive_consumer() const { return exclusive_consumer_ != nullptr; }
  size_t consumer_count() const { return consumers_.size(); }
  bool had_consumers() const { return had_consumers_; }

  size_t ready_count() const { return backlog_->ready_count(); }
  size_t unacked_count() const { return unacked_count_; }

  // Not due yet, and not among the ready ones.
  size_t delayed_count() const { return schedule_ != nullptr ? schedule_->count() : 0; }
  size_t delayed_resident_count() const {
    return schedule_ != nullptr ? schedule_->resident_count() : 0;
  }
  // Since the start: messages that expired, and that were dropped as duplicates.
  uint64_t expired_count() const { return expired_count_; }
  uint64_t duplicate_count() const { return duplicate_count_; }

  // Takes over a message that has expired, to settle it; what it does commits with that. Where it
  // is not set the message is settled. A message leaves when it expires if it is the first of the
  // queue, else when it becomes so; until then it counts as ready, and is handed to nobody.
  using Expired = std::function<void(Queue&, Entry)>;
  void when_expired(Expired expired) { expired_ = std::move(expired); }

  // Called when the queue had no consumer and was not used for as long as it says; may remove it.
  void when_unused(std::function<void()> unused) { unused_ = std::move(unused); }
  // It was declared again.
  void used() {
    if (unused_timer_ != nullptr) unused_timer_->used();
  }

  // For a durable queue, once, before anything else.
  Expected<> recover(storage::Store& store);
  // Below this sequence messages may have been delivered; for the store's clean stop.
  storage::Sequence delivered_below() const { return backlog_->delivered_below(); }

  // Ends it: consumers are told, messages are gone, in the store too.
  void remove();
  bool removed() const { return removed_; }

 private:
  bool enqueue(storage::RecordPtr record, bool persistent, bool fresh);
  Entry take_out();
  void pump(bool fresh = false);
  bool drop_expired();
  void expire(Entry entry);
  Schedule& schedule();
  void make_expiry();
  void note_expiring();

  Journal& journal_;
  const QueueSettings settings_;
  const std::shared_ptr<Backlog> backlog_;
  size_t unacked_count_ = 0;

  std::unordered_set<Consumer*> consumers_;
  std::list<Consumer*> takers_;  // those that may take, in turn
  Consumer* exclusive_consumer_ = nullptr;
  bool had_consumers_ = false;
  bool pumping_ = false;
  bool removed_ = false;

  // Null where the queue has no use for it.
  std::shared_ptr<Schedule> schedule_;
  std::unique_ptr<Expiry> expiry_;
  std::unique_ptr<DedupWindow> dedup_;
  std::unique_ptr<UnusedTimer> unused_timer_;
  Expired expired_;
  std::function<void()> unused_;
  uint64_t expired_count_ = 0;
  uint64_t duplicate_count_ = 0;
};

}  // namespace sluice::broker
