#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "broker/amqp/table.h"
#include "broker/queue/backlog.h"
#include "broker/queue/dedup.h"
#include "broker/queue/expiry.h"
#include "broker/queue/journal.h"
#include "broker/queue/lanes.h"
#include "broker/queue/policy.h"
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
  QueuePolicy policy;  // as declared
  std::optional<uint64_t> message_ttl_ms;
  std::optional<uint64_t> unused_ttl_ms;  // of the queue, where nobody uses it
  std::optional<DedupSettings> dedup;
};

// A queue: its messages (broker/queue/lanes.h), how many of them are out, its limits, its
// consumers, and what its messages and itself have to do with time, which most have nothing. An
// actor of its shard's thread. Held by shared_ptr because messages that are out outlive a deleted
// queue; after deletion, giving them back has no effect.
class Queue : public std::enable_shared_from_this<Queue> {
 public:
  Queue(Journal& journal, ResidentSet& resident, storage::QueueId id, QueueSettings settings);

  const QueueSettings& settings() const { return settings_; }
  const std::string& name() const { return settings_.name; }
  storage::QueueId id() const { return lanes_.id(); }
  // Whether it is there after a restart. An exclusive queue ends with its connection, so it is not.
  bool durable() const { return settings_.durable && !settings_.exclusive; }
  // The connection that an exclusive queue belongs to; only compared.
  const void* owner = nullptr;
  // The shard that it lives on, whose thread alone may touch it. Set by routing, once.
  unsigned shard = 0;

  // Where messages go that die in this queue; without, they are settled. A message that expires
  // dies when it is the first of the queue, or becomes so; until then it counts as ready, and is
  // handed to nobody.
  void when_dead(DeadLetter dead_letter) { dead_letter_ = std::move(dead_letter); }

  const QueuePolicy& policy() const { return policy_; }
  // The number of priorities is as declared. Where the queue is too long now, messages die: a few
  // at once, others in the turns that follow.
  void change_policy(const QueuePolicy& policy);

  // Appends a message, when it is due where its record says so. One that finds its queue full is
  // refused, or makes the oldest one of the lowest priority die, as the policy says. One whose
  // `dedup_id` is not empty and was met within the queue's window is dropped: the result is that of
  // the first one.
  Accepted publish(storage::RecordPtr record, Placing placing, std::string_view dedup_id = {});
  // Takes the next ready message; where it is not in RAM this reads it, blocking the shard. Nothing
  // also where those that are ready wait for their groups.
  std::optional<Entry> take();

  // The message is done with: it leaves the queue for good.
  void settle(const Entry& entry);
  // The message goes back to its place, redelivered. Where that counts as an attempt, and there
  // were too many, it dies. One that was not tried, or whose attempts are noted already, does not
  // count.
  enum class Counts : bool { kNo, kYes };
  void requeue(Entry entry, Counts counts = Counts::kYes);
  // The message goes back to its place as it was taken: nobody has seen it.
  void give_back(Entry entry);
  // Records the attempts that a subscription made.
  void note_attempts(const Entry& entry);
  // The message, which was taken out, dies.
  void die(Entry entry, DeathReason reason);
  // How many died since the start, refused ones with Overflow::kRejectPublishDlx included.
  uint64_t dead_count(DeathReason reason) const { return dead_[static_cast<size_t>(reason)]; }
  // See Backlog.
  void release(Entry& entry) const;
  bool is_on_disk(const Entry& entry) const;
  bool reload(Entry& entry);

  // Removes all ready messages and returns how many there were. Those that are not due yet stay.
  size_t purge() { return lanes_.purge(); }
  // The first `count_max` ready messages, which stay; may read from disk.
  std::vector<Entry> peek(size_t count_max) { return lanes_.peek(count_max); }

  void add_consumer(Consumer* consumer, bool exclusive);
  void remove_consumer(Consumer* consumer);
  // To be called when a consumer can take again.
  void consumer_ready(Consumer* consumer);
  bool has_exclusive_consumer() const { return exclusive_consumer_ != nullptr; }
  size_t consumer_count() const { return consumers_.size(); }
  bool had_consumers() const { return had_consumers_; }

  size_t ready_count() const { return lanes_.ready_count(); }
  // Of their bodies.
  uint64_t ready_bytes() const { return lanes_.ready_bytes(); }
  size_t unacked_count() const { return unacked_count_; }

  // Not due yet, and not among the ready ones.
  size_t delayed_count() const { return schedule_ != nullptr ? schedule_->count() : 0; }
  size_t delayed_resident_count() const {
    return schedule_ != nullptr ? schedule_->resident_count() : 0;
  }
  // Since the start: messages that expired, and that were dropped as duplicates.
  uint64_t expired_count() const { return dead_count(DeathReason::kExpired); }
  uint64_t duplicate_count() const { return duplicate_count_; }

  // Called when the queue had no consumer and was not used for as long as it says; may remove it.
  void when_unused(std::function<void()> unused) { unused_ = std::move(unused); }
  // It was declared again.
  void used() {
    if (unused_timer_ != nullptr) unused_timer_->used();
  }

  // For a durable queue, once, before anything else. `stored` is Store::queues(), in order. Where
  // the queue is longer than its policy says, change_policy() is to be called.
  Expected<> recover(storage::Store& store, std::span<const storage::QueueId> stored);
  // For the store's clean stop.
  void collect_delivered(std::vector<storage::Store::Delivered>& delivered) const {
    lanes_.collect_delivered(delivered);
  }

  // Ends it: consumers are told, messages are gone, in the store too.
  void remove();
  bool removed() const { return removed_; }

 private:
  Accepted enqueue(storage::RecordPtr record, Placing placing, bool fresh);
  Entry take_out(Backlog& lane);
  void pump(bool fresh = false);
  bool drop_expired();
  Schedule& schedule();
  void make_expiry();
  void note_expiring();
  bool overflows(uint64_t count, uint64_t bytes) const;
  void trim();
  void trim_later();

  const QueueSettings settings_;
  Journal& journal_;
  QueuePolicy policy_;
  Lanes lanes_;
  DeadLetter dead_letter_;
  std::array<uint64_t, kDeathReasonCount> dead_ = {};
  size_t unacked_count_ = 0;

  std::unordered_set<Consumer*> consumers_;
  std::list<Consumer*> takers_;  // those that may take, in turn
  Consumer* exclusive_consumer_ = nullptr;
  bool had_consumers_ = false;
  bool pumping_ = false;
  bool trimming_ = false;
  bool trims_later_ = false;
  bool removed_ = false;

  // Null where the queue has no use for it.
  std::shared_ptr<Schedule> schedule_;
  std::unique_ptr<Expiry> expiry_;
  std::unique_ptr<DedupWindow> dedup_;
  std::unique_ptr<UnusedTimer> unused_timer_;
  std::function<void()> unused_;
  uint64_t duplicate_count_ = 0;
};

}  // namespace sluice::broker
