#include "broker/routing/virtual_host.h"

#include <algorithm>
#include <array>
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

VirtualHost::VirtualHost(Journal& journal, ResidentSet& resident, Bodies& bodies, std::string name)
    : journal_(journal), resident_(resident), bodies_(bodies), name_(std::move(name)) {
  for (const auto& [exchange, type] : kPredeclared) {
    ExchangeSettings settings{.name = exchange, .type = type, .durable = true};
    settings.internal = settings.name == "amq.rabbitmq.trace";
    exchanges_.emplace(exchange, std::make_unique<Exchange>(settings));
  }
  ExchangeSettings nameless{.name = "", .type = "direct", .durable = true};
  exchanges_.emplace("", std::make_unique<Exchange>(nameless));
}

amqp::Outcome<Exchange*> VirtualHost::use_exchange(std::string_view name) {
  auto found = exchanges_.find(name);
  if (found == exchanges_.end()) {
    return refuse(ReplyCode::kNotFound, "no " + quoted("exchange", name, name_));
  }
  return found->second.get();
}

amqp::Outcome<bool> VirtualHost::declare_exchange(ExchangeSettings settings) {
  if (settings.name.empty()) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the default exchange");
  }
  if (auto counted = check_count(settings.arguments); !counted) {
    return std::unexpected(counted.error());
  }
  if (auto found = exchanges_.find(settings.name); found != exchanges_.end()) {
    const ExchangeSettings& there = found->second->settings();
    auto differs = [&](std::string_view what) {
      return inequivalent(what, settings.name, name_, "exchange");
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
  exchanges_.emplace(std::move(name), std::move(exchange));
  return true;
}

amqp::Outcome<> VirtualHost::delete_exchange(std::string_view name, bool if_unused) {
  if (name.empty() || reserved(name)) {
    return refuse(ReplyCode::kAccessRefused,
                  "operation not permitted on the predeclared " + quoted("exchange", name, name_));
  }
  auto found = exchanges_.find(name);
  if (found == exchanges_.end()) return {};
  if (if_unused && !found->second->bindings().empty()) {
    return refuse(ReplyCode::kPreconditionFailed, quoted("exchange", name, name_) + " in use");
  }
  remove_exchange(*found->second);
  return {};
}

void VirtualHost::remove_exchange(Exchange& exchange) {
  for (const Binding& binding : exchange.bindings()) forget(exchange, binding);
  forget(exchange);
  exchanges_.erase(exchanges_.find(exchange.settings().name));
}

amqp::Outcome<std::shared_ptr<Queue>> VirtualHost::use_queue(std::string_view name,
                                                             const void* connection) {
  auto found = queues_.find(name);
  if (found == queues_.end()) {
    return refuse(ReplyCode::kNotFound, "no " + quoted("queue", name, name_));
  }
  const auto& queue = found->second;
  if (queue->owner != nullptr && queue->owner != connection) return locked(name, name_);
  return queue;
}

amqp::Outcome<VirtualHost::Declared> VirtualHost::declare_queue(QueueSettings settings,
                                                                const void* connection) {
  if (auto counted = check_count(settings.arguments); !counted) {
    return std::unexpected(counted.error());
  }
  if (settings.name.empty()) {
    settings.name = made_up_name();
  } else if (queues_.contains(settings.name)) {
    auto queue = use_queue(settings.name, connection);
    if (!queue) return std::unexpected(queue.error());
    const QueueSettings& there = (*queue)->settings();
    auto differs = [&](std::string_view what) {
      return inequivalent(what, settings.name, name_, "queue");
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
  queues_.emplace(queue->name(), queue);
  if (queue_created_) queue_created_(queue);
  return Declared{queue, true};
}

std::shared_ptr<Queue> VirtualHost::make_queue(storage::QueueId id, QueueSettings settings) {
  auto queue = std::make_shared<Queue>(journal_, resident_, id, std::move(settings));
  queue->when_dead([this](const std::shared_ptr<Queue>& of, Entry entry, DeathReason reason) {
    dead_letter({of, std::move(entry), reason});
  });
  return queue;
}

// The first of `count` ids in a row.
storage::QueueId VirtualHost::new_queue_id(size_t count) {
  // Time keeps ids of queues that were deleted before the last start from coming again.
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto now_us = static_cast<storage::QueueId>(
      std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  storage::QueueId first = std::max(last_queue_id_ + 1, now_us);
  last_queue_id_ = first + count - 1;
  return first;
}

amqp::Outcome<size_t> VirtualHost::delete_queue(std::string_view name, bool if_unused,
                                                bool if_empty, const void* connection) {
  if (!queues_.contains(name)) return 0;
  auto queue = use_queue(name, connection);
  if (!queue) return std::unexpected(queue.error());
  if (if_unused && (*queue)->consumer_count() > 0) {
    return refuse(ReplyCode::kPreconditionFailed, quoted("queue", name, name_) + " in use");
  }
  if (if_empty && (*queue)->ready_count() > 0) {
    return refuse(ReplyCode::kPreconditionFailed, quoted("queue", name, name_) + " not empty");
  }
  size_t count = (*queue)->ready_count();
  remove_queue(*queue);
  return count;
}

void VirtualHost::remove_queue(const std::shared_ptr<Queue>& queue) {
  auto keep = queue;  // `queue` may be the map's own
  queues_.erase(keep->name());
  std::vector<Exchange*> unused;
  for (auto& [name, exchange] : exchanges_) {
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
  if (queue->settings().auto_delete && !queue->removed() && queue->had_consumers() &&
      queue->consumer_count() == 0) {
    remove_queue(queue);
  }
}

void VirtualHost::connection_ended(const void* connection) {
  std::vector<std::shared_ptr<Queue>> owned;
  for (const auto& [name, queue] : queues_) {
    if (queue->owner == connection) owned.push_back(queue);
  }
  for (const auto& queue : owned) remove_queue(queue);
}

amqp::Outcome<> VirtualHost::bind(std::string_view queue_name, std::string_view exchange_name,
                                  std::string_view routing_key, amqp::Table arguments,
                                  const void* connection) {
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
  if (exchange_name.empty()) {
    return refuse(ReplyCode::kAccessRefused, "operation not permitted on the default exchange");
  }
  if (!queues_.contains(queue_name) || !exchanges_.contains(exchange_name)) return {};
  auto queue = use_queue(queue_name, connection);
  if (!queue) return std::unexpected(queue.error());
  Exchange& exchange = *exchanges_.find(exchange_name)->second;
  Binding binding{queue->get(), std::string(routing_key), arguments};
  if (!exchange.unbind(binding)) return {};
  forget(exchange, binding);
  if (exchange.settings().auto_delete && exchange.bindings().empty()) remove_exchange(exchange);
  return {};
}

amqp::Outcome<Published> VirtualHost::publish(const Publication& publication) {
  routed_.clear();
  if (publication.exchange.empty()) {
    auto found = queues_.find(publication.routing_key);
    if (found != queues_.end()) routed_.push_back(found->second.get());
  } else {
    auto exchange = use_exchange(publication.exchange);
    if (!exchange) return std::unexpected(exchange.error());
    ++route_;
    std::optional<amqp::Properties> properties;
    RoutingInput input{publication.routing_key, [&]() -> const amqp::Table* {
                         properties = amqp::Properties::of_stored(publication.properties);
                         return properties->headers ? &*properties->headers : nullptr;
                       }};
    (*exchange)->route(input, [&](Queue* queue) {
      if (queue->route_mark == route_) return;
      queue->route_mark = route_;
      routed_.push_back(queue);
    });
  }
  if (publication.died != nullptr) {
    counters_.dead_letter_cycles += std::erase_if(
        routed_, [&](Queue* queue) { return comes_back(*publication.died, queue->name()); });
  }
  Published result{.queue_count = routed_.size()};
  if (routed_.empty()) return result;
  auto now = std::chrono::system_clock::now().time_since_epoch();
  storage::Record::Parts parts{
      .exchange = publication.exchange,
      .routing_key = publication.routing_key,
      .properties = publication.properties,
      .body = publication.body,
      .published_at_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
      .external = publication.external,
      .group = publication.group};
  if (parts.body.size() > storage::kInlineBodyBytesMax) {
    BodyWriter writer = bodies_.writer(parts.body.size());
    writer.add(std::exchange(parts.body, {}));
    parts.external = writer.finish();
  }
  auto record = storage::Record::make(parts);
  Placing placing{.persistent = amqp::is_persistent(publication.properties),
                  .priority = publication.priority};
  // A consumer that takes the message at once may publish in turn, and so use routed_ again.
  auto queues = std::move(routed_);
  for (Queue* queue : queues) {
    Accepted accepted = queue->publish(record, placing);
    result.stored |= accepted == Accepted::kStored;
    if (accepted == Accepted::kRefused) ++result.refused_count;
  }
  routed_ = std::move(queues);
  return result;
}

}  // namespace sluice::broker
