#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "broker/amqp/table.h"
#include "broker/queue/journal.h"
#include "broker/queue/sequence_set.h"
#include "storage/store.h"

namespace sluice::broker {

class Queue;

// A message in a queue. Whoever takes one out gives it back to the queue exactly once: settle() or
// requeue().
struct Entry {
  storage::Sequence sequence = 0;
  storage::RecordPtr record;
  uint32_t attempts = 0;  // by subscriptions
  bool redelivered = false;
  bool failed_over = false;  // an executor was lost under it once
  bool stored = false;       // is on disk or on its way there
  AppendSlot slot;
};

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
};

// A queue: ready messages, those that are out, and its consumers. An actor of its shard's thread.
// Held by shared_ptr because messages that are out outlive a deleted queue; after deletion, giving
// them back has no effect.
class Queue : public std::enable_shared_from_this<Queue> {
 public:
  // `id` is 0 for a queue whose messages are never stored.
  Queue(Journal& journal, storage::QueueId id, QueueSettings settings);

  const QueueSettings& settings() const { return settings_; }
  const std::string& name() const { return settings_.name; }
  storage::QueueId id() const { return id_; }
  // The connection that an exclusive queue belongs to; only compared.
  const void* owner = nullptr;
  // Set by routing to deliver a message once, however many bindings match.
  uint64_t route_mark = 0;

  // Appends a message. `persistent` ones are written if the queue stores any; true where that is
  // so.
  bool publish(storage::RecordPtr record, bool persistent);
  // Takes the oldest ready message.
  std::optional<Entry> take();

  // The message is done with: it leaves the queue for good.
  void settle(const Entry& entry);
  // The message goes back to its place, redelivered.
  void requeue(Entry entry);
  // Records how often a subscription tried the message.
  void note_attempts(const Entry& entry);

  // Removes all ready messages and returns how many there were.
  size_t purge();
  // The first `count_max` ready messages, which stay.
  std::vector<const Entry*> peek(size_t count_max) const;

  void add_consumer(Consumer* consumer, bool exclusive);
  void remove_consumer(Consumer* consumer);
  // To be called when a consumer can take again.
  void consumer_ready(Consumer* consumer);
  bool has_exclusive_consumer() const { return exclusive_consumer_ != nullptr; }
  size_t consumer_count() const { return consumers_.size(); }
  bool had_consumers() const { return had_consumers_; }

  size_t ready_count() const { return ready_.size() + returned_.size(); }
  size_t unacked_count() const { return unacked_count_; }

  // Loads what the store holds. For a durable queue, once, before anything else.
  Expected<> recover(storage::Store& store);
  // Below this sequence messages may have been delivered; for the store's clean stop.
  storage::Sequence delivered_below() const { return delivered_below_; }

  // Ends it: consumers are told, messages are gone, in the store too.
  void remove();
  bool removed() const { return removed_; }

  // For the journal: what was consumed since the last batch.
  void collect_consumed(storage::Batch& batch);

 private:
  Entry pop();
  void pump();
  void note_consumed(const Entry& entry);

  Journal& journal_;
  const storage::QueueId id_;
  const QueueSettings settings_;

  std::deque<Entry> ready_;
  // Given back: always older than anything in ready_, because that is taken in order.
  std::map<storage::Sequence, Entry> returned_;
  size_t unacked_count_ = 0;
  storage::Sequence next_sequence_ = 1;
  storage::Sequence delivered_below_ = 1;

  std::unordered_set<Consumer*> consumers_;
  std::list<Consumer*> takers_;  // those that may take, in turn
  Consumer* exclusive_consumer_ = nullptr;
  bool had_consumers_ = false;
  bool pumping_ = false;
  bool removed_ = false;

  SequenceSet consumed_;
  std::vector<storage::Sequence> unwritten_removes_;
  bool watermark_unwritten_ = false;
  bool in_journal_ = false;
};

}  // namespace sluice::broker
