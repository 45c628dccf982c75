#include "broker/admin/views.h"

#include "broker/admin/base64.h"

namespace sluice::broker::admin {

namespace {

// Of a message that is peeked at.
constexpr size_t kPayloadShownMaxBytes = 64u << 10;

std::string_view name_of(FunctionVersion::State state) {
  switch (state) {
    case FunctionVersion::State::kUnloaded:
      return "unloaded";
    case FunctionVersion::State::kLoading:
      return "loading";
    case FunctionVersion::State::kReady:
      return "ready";
    case FunctionVersion::State::kFailed:
      return "failed";
    case FunctionVersion::State::kUnavailable:
      return "unavailable";
  }
  return "unknown";
}

bool is_utf8(std::string_view bytes) {
  try {
    (void)Json(bytes).dump();
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

struct ToJson {
  Json operator()(std::monostate) const { return nullptr; }
  Json operator()(const amqp::Decimal& v) const {
    return Json{{"scale", v.scale}, {"value", v.value}};
  }
  Json operator()(const std::string& v) const { return printable(v); }
  Json operator()(const amqp::ByteArray& v) const { return base64(v.bytes); }
  Json operator()(const amqp::Timestamp& v) const { return v.seconds; }
  Json operator()(const amqp::Array& v) const {
    Json array = Json::array();
    for (const amqp::Field& field : v) array.push_back(std::visit(*this, field.value));
    return array;
  }
  Json operator()(const amqp::Table& v) const { return to_json(v); }
  template <typename T>
  Json operator()(T v) const {
    return v;
  }
};

// Reads JSON into AMQP's fields within the limits.
class FieldReader {
 public:
  std::optional<amqp::Table> table(const Json& json, int depth) {
    amqp::Table table;
    for (const auto& [name, value] : json.items()) {
      auto field = this->field(value, depth);
      if (name.size() > 255 || !field) return std::nullopt;
      table.fields.emplace_back(name, std::move(*field));
    }
    return table;
  }

 private:
  std::optional<amqp::Field> field(const Json& json, int depth) {
    if (depth > amqp::kTableDepthMax || ++fields_ > amqp::kArgumentsMax) return std::nullopt;
    if (json.is_boolean()) return json.get<bool>();
    if (json.is_number_float()) return json.get<double>();
    if (json.is_number()) return json.get<int64_t>();
    if (json.is_string()) return json.get<std::string>();
    if (json.is_array()) {
      amqp::Array array;
      for (const Json& item : json) {
        auto field = this->field(item, depth + 1);
        if (!field) return std::nullopt;
        array.push_back(std::move(*field));
      }
      return array;
    }
    if (json.is_object()) {
      auto nested = table(json, depth + 1);
      if (!nested) return std::nullopt;
      return amqp::Field(std::move(*nested));
    }
    return amqp::Field();
  }

  size_t fields_ = 0;
};

Json view(const Destination& to) {
  return {{"exchange", printable(to.exchange)}, {"routing_key", printable(to.routing_key)}};
}

Json view(const amqp::Properties& properties) {
  Json json = Json::object();
  auto text = [&](const char* name, const std::optional<std::string>& value) {
    if (value) json[name] = printable(*value);
  };
  text("content_type", properties.content_type);
  text("content_encoding", properties.content_encoding);
  if (properties.headers) json["headers"] = to_json(*properties.headers);
  if (properties.delivery_mode) json["delivery_mode"] = *properties.delivery_mode;
  if (properties.priority) json["priority"] = *properties.priority;
  text("correlation_id", properties.correlation_id);
  text("reply_to", properties.reply_to);
  text("expiration", properties.expiration);
  text("message_id", properties.message_id);
  if (properties.timestamp) json["timestamp"] = *properties.timestamp;
  text("type", properties.type);
  text("user_id", properties.user_id);
  text("app_id", properties.app_id);
  text("cluster_id", properties.cluster_id);
  return json;
}

}  // namespace

std::string printable(std::string_view bytes) {
  if (is_utf8(bytes)) return std::string(bytes);
  // dump() replaces what is not UTF-8; parsing the result gives the text back.
  return Json::parse(Json(bytes).dump(-1, ' ', false, Json::error_handler_t::replace))
      .get<std::string>();
}

Json to_json(const amqp::Table& table) {
  Json json = Json::object();
  for (const auto& [name, field] : table.fields) {
    json[printable(name)] = std::visit(ToJson{}, field.value);
  }
  return json;
}

std::optional<amqp::Table> to_table(const Json& json) {
  if (!json.is_object()) return std::nullopt;
  return FieldReader().table(json, 1);
}

std::string_view name_of(Executor::State state) {
  switch (state) {
    case Executor::State::kStarting:
      return "starting";
    case Executor::State::kRunning:
      return "running";
    case Executor::State::kUnavailable:
      return "unavailable";
    case Executor::State::kStopped:
      return "stopped";
  }
  return "unknown";
}

Json view(const VirtualHost& virtual_host, const Queue& queue) {
  const QueueSettings& settings = queue.settings();
  return {{"name", printable(settings.name)},
          {"vhost", virtual_host.name()},
          {"durable", settings.durable},
          {"auto_delete", settings.auto_delete},
          {"exclusive", settings.exclusive},
          {"arguments", to_json(settings.arguments)},
          {"messages", queue.ready_count() + queue.unacked_count()},
          {"messages_ready", queue.ready_count()},
          {"messages_unacknowledged", queue.unacked_count()},
          {"consumers", queue.consumer_count()},
          {"state", "running"}};
}

Json view(const VirtualHost& virtual_host, const Exchange& exchange) {
  const ExchangeSettings& settings = exchange.settings();
  return {{"name", printable(settings.name)},
          {"vhost", virtual_host.name()},
          {"type", settings.type},
          {"durable", settings.durable},
          {"auto_delete", settings.auto_delete},
          {"internal", settings.internal},
          {"arguments", to_json(settings.arguments)}};
}

Json view(const VirtualHost& virtual_host, const Exchange& exchange, const Binding& binding) {
  std::string key = binding.routing_key.empty() ? "~" : printable(binding.routing_key);
  return {{"source", printable(exchange.settings().name)},
          {"vhost", virtual_host.name()},
          {"destination", printable(binding.queue->name())},
          {"destination_type", "queue"},
          {"routing_key", printable(binding.routing_key)},
          {"arguments", to_json(binding.arguments)},
          {"properties_key", key}};
}

Json view(const Connection& connection) {
  return {{"name", connection.peer()},
          {"user", printable(connection.user())},
          {"channels", connection.channel_count()},
          {"state", connection.state_name()},
          {"client_properties", to_json(connection.client_properties())}};
}

Json view(const Entry& entry) {
  Json json = {{"exchange", printable(entry.record->exchange())},
               {"routing_key", printable(entry.record->routing_key())},
               {"redelivered", entry.redelivered}};
  json["properties"] = view(amqp::Properties::of_stored(entry.record->properties()));
  json["payload_bytes"] = entry.record->body_bytes();
  if (entry.record->external() == nullptr) {
    show_payload(json, amqp::as_text(entry.record->body()));
  }
  return json;
}

void show_payload(Json& message, std::string_view body) {
  body = body.substr(0, kPayloadShownMaxBytes);
  bool text = is_utf8(body);
  message["payload"] = text ? std::string(body) : base64(body);
  message["payload_encoding"] = text ? "string" : "base64";
}

namespace {

Json view(const FunctionStats& stats) {
  return {{"sandboxes", stats.sandboxes},
          {"running", stats.running},
          {"queued", stats.queued},
          {"target", stats.target},
          {"calls", stats.calls},
          {"warm_hits", stats.warm_hits},
          {"cold_starts", stats.cold_starts},
          {"clones", stats.clones},
          {"clone_us", stats.clone_us},
          {"resets", stats.resets},
          {"discarded", stats.discarded},
          {"dirty_pages", stats.dirty_pages},
          {"exits", stats.exits},
          {"run_us", stats.run_us},
          {"memory_bytes", stats.memory_bytes}};
}

}  // namespace

Json view(const FunctionVersion& version) {
  const FunctionConfig& config = version.config;
  const FunctionLimits& limits = config.limits;
  Json json = {{"name", version.name},
               {"version", version.version},
               {"image_name", printable(config.image_name)},
               {"args", Json::array()},
               {"env", Json::array()},
               {"memory_bytes", limits.memory_bytes},
               {"timeout_ms", limits.timeout_ms},
               {"cpu_ms", limits.cpu_ms},
               {"output_bytes", limits.output_bytes},
               {"log_bytes", limits.log_bytes},
               {"open_files", limits.open_files},
               {"threads", limits.threads},
               {"tmpfs_bytes", limits.tmpfs_bytes},
               {"concurrency", config.concurrency},
               {"owner", printable(config.owner)},
               {"image_sha256", version.image_sha256},
               {"image_bytes", version.image_bytes},
               {"image_path", printable(config.image_path)},
               {"rootfs_sha256", version.rootfs_sha256},
               {"rootfs_bytes", version.rootfs_bytes},
               {"created_at_ms", version.created_at_ms},
               {"state", name_of(version.state)},
               {"state_reason", printable(version.state_reason)},
               {"protocol", version.speaks_protocol()},
               {"snapshot", version.at_first_read ? "first-read" : "exec"},
               {"load_us", version.load_us},
               {"calls", version.calls},
               {"failures", version.failures},
               {"stats", version.stats ? view(*version.stats) : Json(nullptr)}};
  for (const std::string& arg : config.args) json["args"].push_back(printable(arg));
  for (const std::string& entry : config.env) json["env"].push_back(printable(entry));
  return json;
}

Json view(const Subscription& subscription) {
  const SubscriptionSettings& settings = subscription.settings();
  const SubscriptionCounters& counters = subscription.counters();
  return {{"name", settings.name},
          {"queue", printable(settings.queue)},
          {"function", settings.function},
          {"concurrency", settings.concurrency},
          {"max_attempts", settings.attempts_max},
          {"backoff_min_ms", settings.backoff_min_ms},
          {"backoff_max_ms", settings.backoff_max_ms},
          {"on_failure", view(settings.on_failure)},
          {"result", settings.result ? view(*settings.result) : Json(nullptr)},
          {"paused", settings.paused},
          {"batch_size", settings.batch_size},
          {"batch_window_ms", settings.batch_window_ms},
          {"state", subscription.state()},
          {"state_reason", printable(subscription.state_reason())},
          {"in_flight", subscription.in_flight()},
          {"waiting_retry", subscription.waiting_retry()},
          {"calls", counters.calls},
          {"records", counters.records},
          {"succeeded", counters.succeeded},
          {"failed", counters.failed},
          {"retried", counters.retried},
          {"dead_lettered", counters.dead_lettered}};
}

Json view(const CallLogEntry& entry) {
  return {{"id", entry.id},
          {"time_ms", entry.time_ms},
          {"version", entry.version},
          {"source", entry.source},
          {"attempt", entry.attempt},
          {"outcome", entry.outcome},
          {"message", printable(entry.message)},
          {"log", printable(entry.log)}};
}

namespace {

Json view(const protocol::Answer& answer) {
  Json failed = Json::array(), results = Json::array(), outputs = Json::array(),
       logs = Json::array();
  for (const auto& one : answer.failed) {
    failed.push_back({{"record", one.record}, {"message", printable(one.message)}});
  }
  for (const auto& one : answer.results) {
    results.push_back({{"record", one.record ? Json(*one.record) : Json(nullptr)},
                       {"payload_base64", base64(amqp::as_text(one.payload))}});
  }
  for (const auto& one : answer.outputs) {
    protocol::OutputMessage message = protocol::read_output(one);
    const auto& headers = message.properties.headers;
    outputs.push_back({{"exchange", printable(message.exchange)},
                       {"routing_key", printable(message.routing_key)},
                       {"payload_base64", base64(amqp::as_text(message.body))},
                       {"headers", headers ? to_json(*headers) : Json::object()},
                       {"properties", view(message.properties)},
                       {"delay_ms", message.delay_ms}});
  }
  for (const auto& one : answer.logs) {
    logs.push_back(
        {{"level", protocol::Answer::kLevelNames[one.level]}, {"text", printable(one.text)}});
  }
  return {
      {"failure", answer.failure ? Json(printable(*answer.failure)) : Json(nullptr)},
      {"failed", std::move(failed)},
      {"results", std::move(results)},
      {"state_base64", answer.state ? Json(base64(amqp::as_text(*answer.state))) : Json(nullptr)},
      {"drop_state", answer.drop_state},
      {"outputs", std::move(outputs)},
      {"logs", std::move(logs)}};
}

// The result of the only record, or of the call as a whole.
std::string_view output_of(const CallResult& result) {
  if (result.answer == nullptr) return result.output;
  const auto& results = result.answer->answer.results;
  return results.empty() ? std::string_view() : amqp::as_text(results.front().payload);
}

}  // namespace

Json view(const CallResult& result, uint32_t version) {
  return {{"outcome", result.outcome_name()},
          {"exit_status", result.exit_status},
          {"message", printable(result.message)},
          {"output_base64", base64(output_of(result))},
          {"log_base64", base64(result.log)},
          {"run_us", result.run_us},
          {"exits", result.exits},
          {"dirty_pages", result.dirty_pages},
          {"version", version},
          {"answer", result.answer != nullptr ? view(result.answer->answer) : Json(nullptr)}};
}

Json view(const Executor& executor) {
  return {{"state", name_of(executor.state())},
          {"backend", executor.backend()},
          {"sandbox", executor.sandbox()},
          {"reason", printable(executor.reason())},
          {"workers", executor.workers()},
          {"pid", executor.pid()},
          {"restarts", executor.restarts()},
          {"calls", executor.calls()},
          {"memory_bytes", executor.memory_bytes()},
          {"memory_budget_bytes", executor.memory_budget_bytes()}};
}

}  // namespace sluice::broker::admin
