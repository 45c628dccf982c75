#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "broker/amqp/error.h"
#include "broker/amqp/properties.h"
#include "broker/counters.h"
#include "broker/queue/bodies.h"
#include "broker/queue/journal.h"
#include "broker/queue/queue.h"
#include "broker/routing/exchange.h"
#include "broker/routing/names.h"
#include "broker/threads/courier.h"

namespace sluice::broker {

// A message on its way in. The views are copied if it reaches a queue.
struct Publication {
  std::string_view exchange;
  std::string_view routing_key;
  amqp::Bytes properties;     // as on the wire; well-formed
  amqp::Bytes body;           // made an external one where it is large
  storage::BodyPtr external;  // instead of `body`
  uint64_t group = 0;         // storage::Record::group()
  uint8_t priority = 0;
  int64_t ready_at_ms = 0;  // storage::Record::ready_at_ms()
  // Of a message that died, its headers: it is kept from queues that it would come back to in a
  // cycle (dead_letter.h).
  const amqp::Table* died = nullptr;
};

// Shards, as bits.
using ShardSet = uint64_t;
static_assert(kShardsMax <= 64);

struct Published {
  size_t queue_count = 0;
  ShardSet shards = 0;       // of these queues
  ShardSet stored = 0;       // those where a queue will write it
  size_t refused_count = 0;  // of the queues here, those that are full
  size_t taken_count() const { return queue_count - refused_count; }
};

// A shard's view of the virtual host: the names, which all shards share, and what follows from
// them, publishing. Durable names are written to the catalog. On the shard's thread.
//
// What changes names stops all shards for a moment (Change). What reads a queue of another shard,
// such as how long it is, has to do so within a Change, too.
//
// Refusals are AMQP's: the code and text that a client is closed with. `connection` is the caller's
// identity for exclusive queues; null for the administration, which may not touch those.
class VirtualHost {
 public:
  VirtualHost(Names& names, storage::Store& store, Journal& journal, ResidentSet& resident,
              Bodies& bodies, Courier& courier);

  // Loads the durable definitions and where the queues stand, for all shards. Once, before any of
  // them runs.
  Expected<> recover();

  const std::string& name() const { return names_.name; }
  Journal& journal() { return journal_; }
  Bodies& bodies() { return bodies_; }
  Courier& courier() { return courier_; }
  Counters& counters() { return counters_; }
  VirtualHost& host(unsigned shard) { return *names_.hosts[shard]; }
  VirtualHost& host_of(const Queue& queue) { return host(queue.shard); }
  bool is_here(const Queue& queue) const { return queue.shard == courier_.here(); }
  ShardSet here() const { return ShardSet{1} << courier_.here(); }

  // While it lives the other shards stand still. What it did to names goes to the store as one
  // batch when it ends, ahead of whatever any shard commits after it.
  class [[nodiscard]] Change {
   public:
    explicit Change(VirtualHost& host) : host_(host), change_(host.courier_) {}
    ~Change() {
      if (change_.outermost()) host_.save_definitions();
    }

   private:
    VirtualHost& host_;
    Courier::Change change_;
  };

  // Called when a queue has come into being, within the change.
  void when_queue_created(std::function<void(const std::shared_ptr<Queue>&)> callback) {
    names_.queue_created = std::move(callback);
  }

  // Declaring what is there with the same settings is no change; true where it is new.
  amqp::Outcome<bool> declare_exchange(ExchangeSettings settings);
  amqp::Outcome<> delete_exchange(std::string_view name, bool if_unused);
  amqp::Outcome<Exchange*> use_exchange(std::string_view name);

  struct Declared {
    std::shared_ptr<Queue> queue;
    bool created;
  };
  // An empty name makes one up.
  amqp::Outcome<Declared> declare_queue(QueueSettings settings, const void* connection);
  amqp::Outcome<std::shared_ptr<Queue>> use_queue(std::string_view name, const void* connection);
  // Returns how many ready messages went with it. One that is not there counts as deleted.
  amqp::Outcome<size_t> delete_queue(std::string_view name, bool if_unused, bool if_empty,
                                     const void* connection);

  amqp::Outcome<> bind(std::string_view queue, std::string_view exchange,
                       std::string_view routing_key, amqp::Table arguments, const void* connection);
  amqp::Outcome<> unbind(std::string_view queue, std::string_view exchange,
                         std::string_view routing_key, const amqp::Table& arguments,
                         const void* connection);

  // A consumer has left the queue: it goes too, where it is an auto-delete one and this was the
  // last.
  void consumer_left(const std::shared_ptr<Queue>& queue);
  // A connection has ended: its exclusive queues go.
  void connection_ended(const void* connection);

  // Routes and enqueues. kNotFound where the exchange does not exist.
  amqp::Outcome<Published> publish(const Publication& publication) {
    return publish(publication, false);
  }
  // The same; what this callback changes otherwise is written together with the message, also where
  // its queue is another shard's.
  amqp::Outcome<Published> publish_with_changes(const Publication& publication) {
    return publish(publication, true);
  }

  // Calls back when what was sent to these shards, and to none else, up to now is durable there.
  // Once for each shard.
  void when_durable(ShardSet shards, const std::function<void()>& callback);
  // Calls back when what any shard has made or was sent up to now is durable.
  void when_all_durable(std::function<void()> callback);
  // Whether one of these shards has more than `bytes_max` of messages to write; the first of them.
  std::optional<unsigned> overloaded(ShardSet shards, size_t bytes_max);
  bool memory_is_short() const { return resident_.pressed(); }

  // What becomes of messages that were taken out of `queue`, which may be another shard's.
  enum class Verdict { kSettle, kRequeue, kGiveBack, kReject };
  void apply(const std::shared_ptr<Queue>& queue, Entry entry, Verdict verdict);
  void apply(const std::shared_ptr<Queue>& queue, std::vector<Entry> entries, Verdict verdict);

  // Ends a message that was taken out of `queue`, one of this shard's: see dead_letter().
  void reject(Queue& queue, Entry entry) { queue.die(std::move(entry), DeathReason::kRejected); }

  const std::map<std::string, std::shared_ptr<Queue>, std::less<>>& queues() const {
    return names_.queues;
  }
  const std::map<std::string, std::unique_ptr<Exchange>, std::less<>>& exchanges() const {
    return names_.exchanges;
  }

 private:
  void remove_queue(const std::shared_ptr<Queue>& queue);
  void remove_exchange(Exchange& exchange);
  // The catalog's side (virtual_host_catalog.cc): what is not durable is left alone.
  void save(const Exchange& exchange);
  void save(const Queue& queue);
  void save(const Exchange& exchange, const Binding& binding);
  void forget(const Exchange& exchange);
  void forget(const Queue& queue);
  void forget(const Exchange& exchange, const Binding& binding);
  void define(storage::Batch::Definition definition);
  void save_definitions();
  Expected<> recover_exchanges();
  Expected<> recover_queues();
  void drop_unknown_queues(std::span<const storage::QueueId> stored);
  Expected<> recover_bindings();
  storage::QueueId new_queue_id(size_t count);
  std::shared_ptr<Queue> make_queue(storage::QueueId id, QueueSettings settings);

  // A message that died in `queue` goes to the queue's dead-letter exchange where it has one, else
  // it is discarded; either way it is counted. Its settling and the publishing commit together. One
  // death may bring about others, in any number: they are gone through in this turn or in later
  // ones.
  struct Death {
    std::shared_ptr<Queue> queue;
    Entry entry;
    DeathReason reason;
  };
  void dead_letter(Death death);
  void go_through_deaths();
  bool publish_dead(Death& death);

  amqp::Outcome<Published> publish(const Publication& publication, bool with_changes);
  amqp::Outcome<> route(const Publication& publication);
  storage::RecordPtr make_record(const Publication& publication);
  void send(Queue& queue, const storage::RecordPtr& record, Placing placing);

  Names& names_;
  storage::Store& store_;
  Journal& journal_;
  ResidentSet& resident_;
  Bodies& bodies_;
  Courier& courier_;
  Counters counters_;
  std::vector<Queue*> routed_;
  std::deque<Death> deaths_;
  bool going_through_deaths_ = false;  // or will in a later turn
};

}  // namespace sluice::broker
