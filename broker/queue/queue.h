#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "broker/amqp/table.h"
#include "broker/queue/backlog.h"
#include "broker/queue/journal.h"
#include "broker/queue/policy.h"
#include "broker/queue/resident_set.h"
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
  QueuePolicy policy;  // as declared
};

// A queue: its messages (broker/queue/backlog.h), how many of them are out, and its consumers. An
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

  // Where messages go that die in this queue; without, they are settled.
  void when_dead(DeadLetter dead_letter) { dead_letter_ = std::move(dead_letter); }

  Accepted publish(storage::RecordPtr record, Placing placing);
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

  // Removes all ready messages and returns how many there were.
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

  // For a durable queue, once, before anything else.
  Expected<> recover(storage::Store& store) { return backlog_->recover(store); }
  // Below this sequence messages may have been delivered; for the store's clean stop.
  storage::Sequence delivered_below() const { return backlog_->delivered_below(); }

  // Ends it: consumers are told, messages are gone, in the store too.
  void remove();
  bool removed() const { return removed_; }

 private:
  Entry take_out();
  void pump();

  const QueueSettings settings_;
  const std::shared_ptr<Backlog> backlog_;
  DeadLetter dead_letter_;
  size_t unacked_count_ = 0;

  std::unordered_set<Consumer*> consumers_;
  std::list<Consumer*> takers_;  // those that may take, in turn
  Consumer* exclusive_consumer_ = nullptr;
  bool had_consumers_ = false;
  bool pumping_ = false;
  bool removed_ = false;
};

}  // namespace sluice::broker
