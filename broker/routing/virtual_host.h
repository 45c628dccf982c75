#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
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
  // Of a message that died, its headers: it is kept from queues that it would come back to in a
  // cycle (dead_letter.h).
  const amqp::Table* died = nullptr;
};

struct Published {
  size_t queue_count = 0;
  bool stored = false;       // in at least one queue that will write it
  size_t refused_count = 0;  // of the queues, those that are full
  size_t taken_count() const { return queue_count - refused_count; }
};

// The names: exchanges, queues and bindings, and what follows from them, publishing. Durable ones
// are written to the catalog through the journal, in the same batch as whatever else the callback
// does. On the shard's thread.
//
// Refusals are AMQP's: the code and text that a client is closed with. `connection` is the caller's
// identity for exclusive queues; null for the administration, which may not touch those.
class VirtualHost {
 public:
  VirtualHost(Journal& journal, ResidentSet& resident, Bodies& bodies, std::string name);

  // Loads the durable definitions and where the queues stand. Once, before anything else.
  Expected<> recover(storage::Store& store);

  const std::string& name() const { return name_; }
  Journal& journal() { return journal_; }
  Bodies& bodies() { return bodies_; }
  Counters& counters() { return counters_; }

  // Called when a queue has come into being.
  void when_queue_created(std::function<void(const std::shared_ptr<Queue>&)> callback) {
    queue_created_ = std::move(callback);
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
  amqp::Outcome<Published> publish(const Publication& publication);

  // Ends a message that was taken out of `queue`, see dead_letter().
  void reject(Queue& queue, Entry entry) { queue.die(std::move(entry), DeathReason::kRejected); }

  const std::map<std::string, std::shared_ptr<Queue>, std::less<>>& queues() const {
    return queues_;
  }
  const std::map<std::string, std::unique_ptr<Exchange>, std::less<>>& exchanges() const {
    return exchanges_;
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
  Expected<> recover_exchanges(storage::Store& store);
  Expected<> recover_queues(storage::Store& store);
  void drop_unknown_queues(std::span<const storage::QueueId> stored);
  Expected<> recover_bindings(storage::Store& store);
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

  Journal& journal_;
  ResidentSet& resident_;
  Bodies& bodies_;
  const std::string name_;
  Counters counters_;
  std::map<std::string, std::unique_ptr<Exchange>, std::less<>> exchanges_;
  std::map<std::string, std::shared_ptr<Queue>, std::less<>> queues_;
  storage::QueueId last_queue_id_ = 0;
  std::function<void(const std::shared_ptr<Queue>&)> queue_created_;
  uint64_t route_ = 0;
  std::vector<Queue*> routed_;
  std::deque<Death> deaths_;
  bool going_through_deaths_ = false;  // or will in a later turn
};

}  // namespace sluice::broker
