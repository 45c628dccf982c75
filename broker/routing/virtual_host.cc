#include "broker/routing/virtual_host.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <random>

#include "base/check.h"
#include "broker/routing/dead_letter.h"
#include "broker/routing/queue_arguments.h"

namespace sluice::broker {

namespace {

using amqp::refuse;
using amqp::ReplyCode;

constexpr std::array<std::pair<const char*, const char*>, 6> kPredeclared = {{
    {"amq.direct", "direct"},
    {"amq.fanout", "fanout"},
    {"amq.topic", "topic"},
    {"amq.headers", "headers"},
    {"amq.match", "headers"},
    {"amq.rabbitmq.trace", "topic"},
}};

std::string made_up_name() {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::random_device random;
  std::string name = "amq.gen-";
  for (int i = 0; i < 22; ++i) name += kDigits[random() % 64];
  return name;
}

bool reserved(std::string_view name) { return name.starts_with("amq."); }

std::string quoted(std::string_view kind, std::string_view name, const std::string& vhost) {
  return std::string(kind) + " '" + std::string(name) + "' in vhost '" + vhost + "'";
}

std::unexpected<amqp::ProtocolError> locked(std::string_view name, const std::string& vhost) {
  return refuse(ReplyCode::kResourceLocked,
                "cannot obtain exclusive access to locked " + quoted("queue", name, vhost));
}

std::unexpected<amqp::ProtocolError> inequivalent(std::string_view what, std::string_view name,
                                                  const std::string& vhost, std::string_view kind) {
  return refuse(ReplyCode::kPreconditionFailed, "inequivalent arg '" + std::string(what) +
                                                    "' for " + quoted(kind, name, vhost) +
                                                    ": it exists with another value");
}

amqp::Outcome<> check_count(const amqp::Table& arguments) {
  if (arguments.fields.size() <= amqp::kArgumentsMax) return {};
  return refuse(ReplyCode::kPreconditionFailed,
                "at most " + std::to_string(amqp::kArgumentsMax) + " arguments");
}

// Arguments are equal as sets of fields, numbers by value.
bool same_arguments(const amqp::Table& a, const amqp::Table& b) {
  auto within = [](const amqp::Table& x, const amqp::Table& y) {
    return std::ranges::all_of(x.fields, [&](const auto& field) {
      const amqp::Field* other = y.find(field.first);
      return other != nullptr && amqp::equivalent(field.second, *other);
    });
  };
  return within(a, b) && within(b, a);
}

}  // namespace

Names::Names(std::string vhost) : name(std::move(vhost)) {
  for (const auto& [exchange, type] : kPredeclared) {
    ExchangeSettings settings{.name = exchange, .type = type, .durable = true};
    settings.internal = settings.name == "amq.rabbitmq.trace";
    exchanges.emplace(exchange, std::make_unique<Exchange>(settings));
  }
  ExchangeSettings nameless{.name = "", .type = "direct", .durable = true};
  exchanges.emplace("", std::make_unique<Exchange>(nameless));
}

VirtualHost::VirtualHost(Names& names, storage::Store& store, Journal& journal,
                         ResidentSet& resident, Bodies& bodies, Courier& courier)
    : names_(names),
      store_(store),
      journal_(journal),
      resident_(resident),
      bodies_(bodies),
      courier_(courier) {
  CHECK(names_.hosts.size() == courier_.here());
  names_.hosts.push_back(this);
}

amqp::Outcome<Exchange*> VirtualHost::use_exchange(std::string_view name) {
  auto found = names_.exchanges.find(name);
  if (found == names_.exchanges.end()) {
    return refuse(ReplyCode::kNotFound, "no " + quoted("exchange", name, names_.name));
  }
  return found->second.get();
}

amqp::Outcome<bool> VirtualHost::declare_exchange(ExchangeSettings settings) {
  Change change(*this);
  if (settings.name.empty()) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the default exchange");
  }
  if (auto counted = check_count(settings.arguments); !counted) {
    return std::unexpected(counted.error());
  }
  if (auto found = names_.exchanges.find(settings.name); found != names_.exchanges.end()) {
    const ExchangeSettings& there = found->second->settings();
    auto differs = [&](std::string_view what) {
      return inequivalent(what, settings.name, names_.name, "exchange");
    };
    if (there.type != settings.type) return differs("type");
    if (there.durable != settings.durable) return differs("durable");
    if (there.auto_delete != settings.auto_delete) return differs("auto_delete");
    if (there.internal != settings.internal) return differs("internal");
    if (!same_arguments(there.arguments, settings.arguments)) return differs("arguments");
    return false;
  }
  if (reserved(settings.name)) {
    return refuse(ReplyCode::kAccessRefused,
                  "exchange name '" + settings.name + "' contains reserved prefix 'amq.*'");
  }
  if (Router::make(settings.type) == nullptr) {
    return refuse(ReplyCode::kCommandInvalid, "unknown exchange type '" + settings.type + "'");
  }
  if (settings.arguments.find("alternate-exchange") != nullptr) {
    return refuse(ReplyCode::kPreconditionFailed,
                  "invalid arg 'alternate-exchange': not supported by this broker");
  }
  auto exchange = std::make_unique<Exchange>(std::move(settings));
  save(*exchange);
  std::string name = exchange->settings().name;
  names_.exchanges.emplace(std::move(name), std::move(exchange));
  return true;
}

amqp::Outcome<> VirtualHost::delete_exchange(std::string_view name, bool if_unused) {
  Change change(*this);
  if (name.empty() || reserved(name)) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the predeclared " +
                                                 quoted("exchange", name, names_.name));
  }
  auto found = names_.exchanges.find(name);
  if (found == names_.exchanges.end()) return {};
  if (if_unused && !found->second->bindings().empty()) {
    return refuse(ReplyCode::kPreconditionFailed,
                  quoted("exchange", name, names_.name) + " in use");
  }
  remove_exchange(*found->second);
  return {};
}

void VirtualHost::remove_exchange(Exchange& exchange) {
  for (const Binding& binding : exchange.bindings()) forget(exchange, binding);
  forget(exchange);
  names_.exchanges.erase(names_.exchanges.find(exchange.settings().name));
}

amqp::Outcome<std::shared_ptr<Queue>> VirtualHost::use_queue(std::string_view name,
                                                             const void* connection) {
  auto found = names_.queues.find(name);
  if (found == names_.queues.end()) {
    return refuse(ReplyCode::kNotFound, "no " + quoted("queue", name, names_.name));
  }
  const auto& queue = found->second;
  if (queue->owner != nullptr && queue->owner != connection) return locked(name, names_.name);
  return queue;
}

amqp::Outcome<VirtualHost::Declared> VirtualHost::declare_queue(QueueSettings settings,
                                                                const void* connection) {
  Change change(*this);
  if (auto counted = check_count(settings.arguments); !counted) {
    return std::unexpected(counted.error());
  }
  if (settings.name.empty()) {
    settings.name = made_up_name();
  } else if (names_.queues.contains(settings.name)) {
    auto queue = use_queue(settings.name, connection);
    if (!queue) return std::unexpected(queue.error());
    const QueueSettings& there = (*queue)->settings();
    auto differs = [&](std::string_view what) {
      return inequivalent(what, settings.name, names_.name, "queue");
    };
    if (there.durable != settings.durable) return differs("durable");
    if (there.exclusive != settings.exclusive) return differs("exclusive");
    if (there.auto_delete != settings.auto_delete) return differs("auto_delete");
    if (!same_arguments(there.arguments, settings.arguments)) return differs("arguments");
    return Declared{*queue, false};
  } else if (reserved(settings.name)) {
    return refuse(ReplyCode::kAccessRefused,
                  "queue name '" + settings.name + "' contains reserved prefix 'amq.*'");
  }
  if (auto checked = check_queue_arguments(settings.arguments); !checked) {
    return std::unexpected(checked.error());
  }
  bool exclusive = settings.exclusive;
  auto queue =
      make_queue(new_queue_id(size_t{settings.policy.priority_max} + 1), std::move(settings));
  if (exclusive) queue->owner = connection;
  save(*queue);
  names_.queues.emplace(queue->name(), queue);
  if (names_.queue_created) names_.queue_created(queue);
  return Declared{queue, true};
}

std::shared_ptr<Queue> VirtualHost::make_queue(storage::QueueId id, QueueSettings settings) {
  VirtualHost& home = *names_.hosts[names_.next_home++ % names_.hosts.size()];
  auto queue = std::make_shared<Queue>(home.journal_, home.resident_, id, std::move(settings));
  queue->shard = home.courier_.here();
  queue->when_dead([&home](const std::shared_ptr<Queue>& of, Entry entry, DeathReason reason) {
    home.dead_letter({of, std::move(entry), reason});
  });
  return queue;
}

// The first of `count` ids in a row.
storage::QueueId VirtualHost::new_queue_id(size_t count) {
  // Time keeps ids of queues that were deleted before the last start from coming again.
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto now_us = static_cast<storage::QueueId>(
      std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  storage::QueueId first = std::max(names_.last_queue_id + 1, now_us);
  names_.last_queue_id = first + count - 1;
  return first;
}

amqp::Outcome<size_t> VirtualHost::delete_queue(std::string_view name, bool if_unused,
                                                bool if_empty, const void* connection) {
  Change change(*this);
  if (!names_.queues.contains(name)) return 0;
  auto queue = use_queue(name, connection);
  if (!queue) return std::unexpected(queue.error());
  if (if_unused && (*queue)->consumer_count() > 0) {
    return refuse(ReplyCode::kPreconditionFailed, quoted("queue", name, names_.name) + " in use");
  }
  if (if_empty && (*queue)->ready_count() > 0) {
    return refuse(ReplyCode::kPreconditionFailed,
                  quoted("queue", name, names_.name) + " not empty");
  }
  size_t count = (*queue)->ready_count();
  remove_queue(*queue);
  return count;
}

void VirtualHost::remove_queue(const std::shared_ptr<Queue>& queue) {
  auto keep = queue;  // `queue` may be the map's own
  names_.queues.erase(keep->name());
  std::vector<Exchange*> unused;
  for (auto& [name, exchange] : names_.exchanges) {
    auto removed = exchange->unbind_all(keep.get());
    for (const Binding& binding : removed) forget(*exchange, binding);
    if (!removed.empty() && exchange->settings().auto_delete && exchange->bindings().empty()) {
      unused.push_back(exchange.get());
    }
  }
  for (Exchange* exchange : unused) remove_exchange(*exchange);
  forget(*keep);
  keep->remove();
}

void VirtualHost::consumer_left(const std::shared_ptr<Queue>& queue) {
  if (!queue->settings().auto_delete) return;
  Change change(*this);
  if (!queue->removed() && queue->had_consumers() && queue->consumer_count() == 0) {
    remove_queue(queue);
  }
}

void VirtualHost::connection_ended(const void* connection) {
  std::vector<std::shared_ptr<Queue>> owned;
  for (const auto& [name, queue] : names_.queues) {
    if (queue->owner == connection) owned.push_back(queue);
  }
  if (owned.empty()) return;
  Change change(*this);
  for (const auto& queue : owned) remove_queue(queue);
}

amqp::Outcome<> VirtualHost::bind(std::string_view queue_name, std::string_view exchange_name,
                                  std::string_view routing_key, amqp::Table arguments,
                                  const void* connection) {
  Change change(*this);
  if (auto counted = check_count(arguments); !counted) return counted;
  auto queue = use_queue(queue_name, connection);
  if (!queue) return std::unexpected(queue.error());
  if (exchange_name.empty()) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the default exchange");
  }
  auto exchange = use_exchange(exchange_name);
  if (!exchange) return std::unexpected(exchange.error());
  if ((*exchange)->settings().type == "headers") {
    const amqp::Field* mode = arguments.find("x-match");
    static constexpr std::array kModes = {"all", "any", "all-with-x", "any-with-x"};
    if (mode != nullptr &&
        (mode->text() == nullptr || std::ranges::find(kModes, *mode->text()) == kModes.end())) {
      return refuse(ReplyCode::kPreconditionFailed,
                    "invalid x-match: it is one of all, any, all-with-x, any-with-x");
    }
  }
  Binding binding{queue->get(), std::string(routing_key), std::move(arguments)};
  if ((*exchange)->bind(binding)) save(**exchange, binding);
  return {};
}

amqp::Outcome<> VirtualHost::unbind(std::string_view queue_name, std::string_view exchange_name,
                                    std::string_view routing_key, const amqp::Table& arguments,
                                    const void* connection) {
  Change change(*this);
  if (exchange_name.empty()) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the default exchange");
  }
  if (!names_.queues.contains(queue_name) || !names_.exchanges.contains(exchange_name)) return {};
  auto queue = use_queue(queue_name, connection);
  if (!queue) return std::unexpected(queue.error());
  Exchange& exchange = *names_.exchanges.find(exchange_name)->second;
  Binding binding{queue->get(), std::string(routing_key), arguments};
  if (!exchange.unbind(binding)) return {};
  forget(exchange, binding);
  if (exchange.settings().auto_delete && exchange.bindings().empty()) remove_exchange(exchange);
  return {};
}

// Finds the queues that the message goes to; each once.
amqp::Outcome<> VirtualHost::route(const Publication& publication) {
  routed_.clear();
  if (publication.exchange.empty()) {
    auto found = names_.queues.find(publication.routing_key);
    if (found != names_.queues.end()) routed_.push_back(found->second.get());
    return {};
  }
  auto exchange = use_exchange(publication.exchange);
  if (!exchange) return std::unexpected(exchange.error());
  std::optional<amqp::Properties> properties;
  RoutingInput input{publication.routing_key, [&]() -> const amqp::Table* {
                       properties = amqp::Properties::of_stored(publication.properties);
                       return properties->headers ? &*properties->headers : nullptr;
                     }};
  (*exchange)->route(input, [&](Queue* queue) { routed_.push_back(queue); });
  if (routed_.size() > 1) {
    std::ranges::sort(routed_);
    auto repeated = std::ranges::unique(routed_);
    routed_.erase(repeated.begin(), repeated.end());
  }
  return {};
}

storage::RecordPtr VirtualHost::make_record(const Publication& publication) {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  storage::Record::Parts parts{
      .exchange = publication.exchange,
      .routing_key = publication.routing_key,
      .properties = publication.properties,
      .body = publication.body,
      .published_at_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
      .external = publication.external,
      .group = publication.group,
      .ready_at_ms = publication.ready_at_ms};
  if (parts.body.size() > storage::kInlineBodyBytesMax) {
    BodyWriter writer = bodies_.writer(parts.body.size());
    writer.add(std::exchange(parts.body, {}));
    parts.external = writer.finish();
  }
  return storage::Record::make(parts);
}

amqp::Outcome<Published> VirtualHost::publish(const Publication& publication, bool with_changes) {
  if (auto routed = route(publication); !routed) return std::unexpected(routed.error());
  if (publication.died != nullptr) {
    counters_.dead_letter_cycles += std::erase_if(
        routed_, [&](Queue* queue) { return comes_back(*publication.died, queue->name()); });
  }
  Published result{.queue_count = routed_.size()};
  if (routed_.empty()) return result;
  auto record = make_record(publication);
  Placing placing{.persistent = amqp::is_persistent(publication.properties),
                  .priority = publication.priority};
  for (const Queue* queue : routed_) {
    result.shards |= ShardSet{1} << queue->shard;
    if (!is_here(*queue) && placing.persistent && queue->durable()) {
      result.stored |= ShardSet{1} << queue->shard;
    }
  }
  // An external body's chunks are this shard's to write.
  ShardSet others = result.stored;
  if (others != 0 && (with_changes || record->external() != nullptr)) {
    auto tie = std::make_shared<storage::Tie>(1 + std::popcount(others));
    journal_.tie(tie);
    for (unsigned shard = 0; shard < courier_.shard_count(); ++shard) {
      if ((others >> shard & 1) == 0) continue;
      courier_.send(shard, [tie, &journal = host(shard).journal_] { journal.tie(tie); });
    }
  }
  // A consumer that takes the message at once may publish in turn, and so use routed_ again.
  auto queues = std::move(routed_);
  for (Queue* queue : queues) {
    if (!is_here(*queue)) {
      send(*queue, record, placing);
      continue;
    }
    Accepted accepted = queue->publish(record, placing);
    if (accepted == Accepted::kStored) result.stored |= here();
    if (accepted == Accepted::kRefused) ++result.refused_count;
  }
  routed_ = std::move(queues);
  return result;
}

void VirtualHost::send(Queue& queue, const storage::RecordPtr& record, Placing placing) {
  auto& under_way = courier_.mailroom().bytes_under_way(queue.shard);
  size_t bytes = record->bytes().size();
  under_way.fetch_add(bytes, std::memory_order_relaxed);
  courier_.send(queue.shard, [to = queue.shared_from_this(), record, placing, bytes, &under_way] {
    under_way.fetch_sub(bytes, std::memory_order_relaxed);
    // Deleted meanwhile: the message went with it.
    if (!to->removed()) to->publish(record, placing);
  });
}

void VirtualHost::when_durable(ShardSet shards, const std::function<void()>& callback) {
  for (unsigned shard = 0; shard < courier_.shard_count(); ++shard) {
    if ((shards >> shard & 1) == 0) continue;
    if (shard == courier_.here()) {
      journal_.when_durable(callback);
      continue;
    }
    courier_.send(shard, [&there = host(shard), here = courier_.here(), callback] {
      there.journal_.when_durable(
          [&there, here, callback] { there.courier_.send(here, callback); });
    });
  }
}

void VirtualHost::when_all_durable(std::function<void()> callback) {
  unsigned count = courier_.shard_count();
  ShardSet all = count == kShardsMax ? ~ShardSet{0} : (ShardSet{1} << count) - 1;
  when_durable(all, [missing = std::make_shared<unsigned>(count), callback = std::move(callback)] {
    if (--*missing == 0) callback();
  });
}

std::optional<unsigned> VirtualHost::overloaded(ShardSet shards, size_t bytes_max) {
  for (unsigned shard = 0; shard < courier_.shard_count(); ++shard) {
    if ((shards >> shard & 1) == 0) continue;
    size_t bytes = host(shard).journal_.unwritten_bytes() +
                   courier_.mailroom().bytes_under_way(shard).load(std::memory_order_relaxed);
    if (bytes > bytes_max) return shard;
  }
  return std::nullopt;
}

void VirtualHost::apply(const std::shared_ptr<Queue>& queue, std::vector<Entry> entries,
                        Verdict verdict) {
  if (is_here(*queue)) {
    for (Entry& entry : entries) apply(queue, std::move(entry), verdict);
    return;
  }
  courier_.send(queue->shard,
                [&there = host_of(*queue), queue, entries = std::move(entries), verdict]() mutable {
                  there.apply(queue, std::move(entries), verdict);
                });
}

void VirtualHost::apply(const std::shared_ptr<Queue>& queue, Entry entry, Verdict verdict) {
  if (!is_here(*queue)) {
    std::vector<Entry> entries;
    entries.push_back(std::move(entry));
    apply(queue, std::move(entries), verdict);
    return;
  }
  switch (verdict) {
    case Verdict::kSettle:
      queue->settle(entry);
      break;
    case Verdict::kRequeue:
      queue->requeue(std::move(entry));
      break;
    case Verdict::kGiveBack:
      queue->give_back(std::move(entry));
      break;
    case Verdict::kReject:
      reject(*queue, std::move(entry));
      break;
  }
}

}  // namespace sluice::broker
