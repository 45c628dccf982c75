#include <charconv>

#include "broker/admin/api.h"

namespace sluice::broker::admin {

namespace {

constexpr size_t kPeekDefault = 10;
constexpr size_t kPeekMax = 1000;

bool flag(const Request& request, const std::string& name) {
  std::string value = request.query_or(name, "false");
  return value == "true" || value == "1";
}

// Path segments: kind, vhost, name.
class Topology {
 public:
  explicit Topology(VirtualHost& vhost) : vhost_(vhost), bodies_(vhost.bodies()) {}

  void add(HttpServer& http) {
    auto to = [this](Response (Topology::*member)(const Request&)) {
      return [this, member](const RequestPtr& request, const Respond& respond) {
        if (is_here(*request, respond)) respond((this->*member)(*request));
      };
    };
    // Answered when what it changed is on disk.
    auto durably = [this, to](Response (Topology::*member)(const Request&)) {
      return [this, handler = to(member)](const RequestPtr& request, const Respond& respond) {
        handler(request, when_durable(vhost_, respond));
      };
    };
    for (const char* path : {"queues", "queues/*"}) http.route("GET", path, to(&Topology::queues));
    http.route("GET", "queues/*/*", to(&Topology::queue));
    http.route("PUT", "queues/*/*", durably(&Topology::declare_queue));
    http.route("DELETE", "queues/*/*", durably(&Topology::delete_queue));
    http.route("DELETE", "queues/*/*/contents", durably(&Topology::purge));
    http.route("GET", "queues/*/*/messages",
               [this](const RequestPtr& request, const Respond& respond) {
                 if (is_here(*request, respond)) peek(*request, respond);
               });
    for (const char* path : {"exchanges", "exchanges/*"}) {
      http.route("GET", path, to(&Topology::exchanges));
    }
    http.route("GET", "exchanges/*/*", to(&Topology::exchange));
    http.route("PUT", "exchanges/*/*", durably(&Topology::declare_exchange));
    http.route("DELETE", "exchanges/*/*", durably(&Topology::delete_exchange));
    for (const char* path : {"bindings", "bindings/*"}) {
      http.route("GET", path, to(&Topology::bindings));
    }
    http.route("POST", "bindings/*/e/*/q/*", durably(&Topology::bind));
    http.route("DELETE", "bindings/*/e/*/q/*", durably(&Topology::unbind));
  }

 private:
  bool is_here(const Request& request, const Respond& respond) const {
    bool here = request.path.size() < 2 || request.path[1] == vhost_.name();
    if (!here) respond(error_response(404, "not_found", "no such virtual host"));
    return here;
  }

  Response queues(const Request&) {
    Json list = Json::array();
    for (const auto& [name, queue] : vhost_.queues()) list.push_back(view(vhost_, *queue));
    return {200, list};
  }

  Response queue(const Request& request) {
    auto found = vhost_.queues().find(request.path[2]);
    if (found == vhost_.queues().end()) return no_queue(request.path[2]);
    return {200, view(vhost_, *found->second)};
  }

  Response no_queue(const std::string& name) {
    return error_response(404, "not_found", "no queue '" + name + "'");
  }

  Response declare_queue(const Request& request) {
    auto body = json_object(request.body);
    if (!body) return bad_request("the body is not a JSON object");
    QueueSettings settings{.name = request.path[2], .durable = true};
    Members members(*body);
    members.read("durable", settings.durable);
    members.read("auto_delete", settings.auto_delete);
    members.read("arguments", settings.arguments);
    if (auto mistake = members.mistake()) return bad_request(*mistake);
    if (settings.name.empty() || settings.name.size() > 255) {
      return bad_request("a queue's name has 1 to 255 bytes");
    }
    auto declared = vhost_.declare_queue(std::move(settings), nullptr);
    if (!declared) return error_response(declared.error());
    return {declared->created ? 201 : 204, nullptr};
  }

  Response delete_queue(const Request& request) {
    if (!vhost_.queues().contains(request.path[2])) return no_queue(request.path[2]);
    auto deleted = vhost_.delete_queue(request.path[2], flag(request, "if-unused"),
                                       flag(request, "if-empty"), nullptr);
    if (!deleted) return error_response(deleted.error());
    return {204, nullptr};
  }

  Response purge(const Request& request) {
    auto queue = vhost_.use_queue(request.path[2], nullptr);
    if (!queue) return error_response(queue.error());
    return {200, {{"purged", (*queue)->purge()}}};
  }

  void peek(const Request& request, const Respond& respond) {
    auto queue = vhost_.use_queue(request.path[2], nullptr);
    if (!queue) return respond(error_response(queue.error()));
    size_t count = kPeekDefault;
    std::string text = request.query_or("count", std::to_string(kPeekDefault));
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc() || end != text.data() + text.size() || count > kPeekMax) {
      return respond(bad_request("count is a number up to " + std::to_string(kPeekMax)));
    }
    auto peeked = std::make_shared<Peeked>();
    for (const Entry& entry : (*queue)->peek(count)) {
      if (entry.record->external()) {
        peeked->external.emplace_back(peeked->list.size(), entry.record->external());
      }
      peeked->list.push_back(view(entry));
    }
    show_external(peeked, respond);
  }

  struct Peeked {
    Json list = Json::array();
    std::vector<std::pair<size_t, storage::BodyPtr>> external;  // of the message at that place
  };

  // One after the other, so that one is in RAM.
  void show_external(const std::shared_ptr<Peeked>& peeked, const Respond& respond) {
    if (peeked->external.empty()) return respond({200, std::move(peeked->list)});
    auto [at, body] = std::move(peeked->external.back());
    peeked->external.pop_back();
    bodies_.read(body, 0, 1, [this, peeked, respond, at = at](Expected<std::string> chunk) {
      if (!chunk) return respond(error_response(chunk.error()));
      show_payload(peeked->list[at], *chunk);
      show_external(peeked, respond);
    });
  }

  Response exchanges(const Request&) {
    Json list = Json::array();
    for (const auto& [name, exchange] : vhost_.exchanges()) list.push_back(view(vhost_, *exchange));
    return {200, list};
  }

  Response exchange(const Request& request) {
    auto exchange = vhost_.use_exchange(request.path[2]);
    if (!exchange) return error_response(exchange.error());
    return {200, view(vhost_, **exchange)};
  }

  Response declare_exchange(const Request& request) {
    auto body = json_object(request.body);
    if (!body) return bad_request("the body is not a JSON object");
    ExchangeSettings settings{.name = request.path[2], .type = "direct", .durable = true};
    Members members(*body);
    members.read("type", settings.type);
    members.read("durable", settings.durable);
    members.read("auto_delete", settings.auto_delete);
    members.read("internal", settings.internal);
    members.read("arguments", settings.arguments);
    if (auto mistake = members.mistake()) return bad_request(*mistake);
    if (settings.name.size() > 255) return bad_request("an exchange's name has 1 to 255 bytes");
    auto declared = vhost_.declare_exchange(std::move(settings));
    if (!declared) return error_response(declared.error());
    return {*declared ? 201 : 204, nullptr};
  }

  Response delete_exchange(const Request& request) {
    if (!vhost_.exchanges().contains(request.path[2])) {
      return error_response(404, "not_found", "no exchange '" + request.path[2] + "'");
    }
    auto deleted = vhost_.delete_exchange(request.path[2], flag(request, "if-unused"));
    if (!deleted) return error_response(deleted.error());
    return {204, nullptr};
  }

  Response bindings(const Request&) {
    Json list = Json::array();
    for (const auto& [name, exchange] : vhost_.exchanges()) {
      for (const Binding& binding : exchange->bindings()) {
        list.push_back(view(vhost_, *exchange, binding));
      }
    }
    return {200, list};
  }

  // bindings/VHOST/e/EXCHANGE/q/QUEUE
  Response bind(const Request& request) {
    auto body = json_object(request.body);
    if (!body) return bad_request("the body is not a JSON object");
    std::string routing_key;
    amqp::Table arguments;
    Members members(*body);
    members.read("routing_key", routing_key);
    members.read("arguments", arguments);
    if (auto mistake = members.mistake()) return bad_request(*mistake);
    if (routing_key.size() > 255) return bad_request("a routing key has at most 255 bytes");
    auto bound = vhost_.bind(request.path[5], request.path[3], routing_key, arguments, nullptr);
    if (!bound) return error_response(bound.error());
    return {201, nullptr};
  }

  Response unbind(const Request& request) {
    std::string routing_key = request.query_or("routing_key", "");
    auto found = vhost_.exchanges().find(request.path[3]);
    bool there = found != vhost_.exchanges().end() &&
                 std::ranges::any_of(found->second->bindings(), [&](const Binding& binding) {
                   return binding.queue->name() == request.path[5] &&
                          binding.routing_key == routing_key && binding.arguments.empty();
                 });
    if (!there) return error_response(404, "not_found", "no such binding");
    auto unbound = vhost_.unbind(request.path[5], request.path[3], routing_key, {}, nullptr);
    if (!unbound) return error_response(unbound.error());
    return {204, nullptr};
  }

  VirtualHost& vhost_;
  Bodies& bodies_;
};

}  // namespace

void add_topology(HttpServer& http, VirtualHost& virtual_host) {
  // Lives as long as the routes that hold it.
  auto topology = std::make_shared<Topology>(virtual_host);
  topology->add(http);
  http.keep(topology);
}

void add_overview(HttpServer& http, Shards& shards, Dispatcher& dispatcher, const Config& config,
                  const DiskAlarm& disk_alarm) {
  uint64_t started_at_ms = uv_now(shards.first().loop());
  http.route("GET", "overview",
             [&shards, &dispatcher, &config, &disk_alarm, started_at_ms](const RequestPtr&,
                                                                         const Respond& respond) {
               Shard& first = shards.first();
               VirtualHost& vhost = first.virtual_host();
               size_t ready = 0, unacked = 0, consumers = 0, connections = 0, channels = 0;
               for (const auto& [name, queue] : vhost.queues()) {
                 ready += queue->ready_count();
                 unacked += queue->unacked_count();
                 consumers += queue->consumer_count();
               }
               Counters counters;
               for (unsigned i = 0; i < shards.count(); ++i) {
                 counters += shards[i].virtual_host().counters();
                 connections += shards[i].server().connections().size();
                 for (const auto& connection : shards[i].server().connections()) {
                   channels += connection->channel_count();
                 }
               }
               Json storage = {{"sync", config.sync},
                               {"disk_free_bytes", disk_alarm.free_bytes()},
                               {"disk_free_min_bytes", disk_alarm.free_min_bytes()},
                               {"disk_alarm", disk_alarm.on()}};
               if (config.sync == "interval") storage["sync_interval_ms"] = config.sync_interval_ms;
               respond({200,
                        {{"product_name", "Sluice"},
                         {"product_version", SLUICE_VERSION},
                         {"rabbitmq_version", kCompatibleVersion},
                         {"node", first.server().node_name()},
                         {"uptime_ms", uv_now(first.loop()) - started_at_ms},
                         {"shards", shards.count()},
                         {"listeners", Json::array({{{"protocol", "amqp"},
                                                     {"ip_address", shards.host()},
                                                     {"port", shards.port()}}})},
                         {"storage", std::move(storage)},
                         {"object_totals",
                          {{"connections", connections},
                           {"channels", channels},
                           {"exchanges", vhost.exchanges().size()},
                           {"queues", vhost.queues().size()},
                           {"consumers", consumers}}},
                         {"queue_totals",
                          {{"messages", ready + unacked},
                           {"messages_ready", ready},
                           {"messages_unacknowledged", unacked}}},
                         {"message_stats",
                          {{"publish", counters.published},
                           {"confirm", counters.confirmed},
                           {"deliver_get", counters.delivered},
                           {"redeliver", counters.redelivered},
                           {"ack", counters.acked},
                           {"return_unroutable", counters.returned_unroutable},
                           {"drop_unroutable", counters.dropped_unroutable},
                           {"dead_letter", counters.dead_lettered},
                           {"discard", counters.discarded}}},
                         {"functions", dispatcher.functions().names().size()},
                         {"subscriptions", dispatcher.subscriptions().size()},
                         {"executor", view(dispatcher.executor())}}});
             });
  http.route("GET", "connections", [&shards](const RequestPtr&, const Respond& respond) {
    Json list = Json::array();
    for (unsigned i = 0; i < shards.count(); ++i) {
      for (const auto& connection : shards[i].server().connections()) {
        list.push_back(view(*connection));
      }
    }
    respond({200, list});
  });
}

}  // namespace sluice::broker::admin
