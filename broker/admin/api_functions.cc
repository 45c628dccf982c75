#include <charconv>
#include <chrono>

#include "broker/admin/api.h"
#include "broker/dispatch/limits.h"
#include "broker/net/handles.h"

namespace sluice::broker::admin {

namespace {

constexpr uint64_t kLogWaitMaxMs = 30'000;

uint64_t number(const Request& request, const std::string& name) {
  std::string text = request.query_or(name, "0");
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

int64_t now_ms() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

Response no_function(const std::string& name) {
  return error_response(404, "not_found", "no function '" + name + "'");
}

std::string* part(const RequestPtr& request, const char* name) {
  auto found = request->parts.find(name);
  return found == request->parts.end() ? nullptr : &found->second;
}

void deploy(Dispatcher& dispatcher, const RequestPtr& request, const Respond& respond) {
  const std::string* config_part = part(request, "config");
  std::string* image = part(request, "image");
  std::string* rootfs = part(request, "rootfs");
  if (config_part == nullptr || (image == nullptr && rootfs == nullptr)) {
    return respond(bad_request(
        "a multipart form with the part 'config' and 'image' or 'rootfs' or both is expected"));
  }
  if (image == nullptr && rootfs->empty()) {
    return respond(error_response(422, "refused", "the root file system is empty"));
  }
  auto json = json_object(*config_part);
  if (!json) return respond(bad_request("'config' is not a JSON object"));
  FunctionConfig config;
  Members members(*json);
  members.read("image_name", config.image_name);
  members.read("args", config.args);
  members.read("env", config.env);
  members.read("memory_bytes", config.limits.memory_bytes);
  members.read("timeout_ms", config.limits.timeout_ms);
  members.read("cpu_ms", config.limits.cpu_ms);
  members.read("output_bytes", config.limits.output_bytes);
  members.read("log_bytes", config.limits.log_bytes);
  members.read("open_files", config.limits.open_files);
  members.read("threads", config.limits.threads);
  members.read("tmpfs_bytes", config.limits.tmpfs_bytes);
  members.read("concurrency", config.concurrency);
  members.read("image_path", config.image_path);
  if (auto mistake = members.mistake()) return respond(bad_request(*mistake));
  if (config.image_name.empty() && image != nullptr) {
    return respond(bad_request("'image_name' is missing"));
  }
  FunctionFiles files;
  if (image != nullptr) files.image = std::move(*image);
  if (rootfs != nullptr) files.rootfs = std::move(*rootfs);
  dispatcher.functions().deploy(request->path[1], std::move(config), std::move(files),
                                [respond](Expected<Functions::VersionPtr> version) {
                                  if (!version) return respond(error_response(version.error()));
                                  Json json = view(**version);
                                  if (!(*version)->state_reason.empty())
                                    json["warning"] = printable((*version)->state_reason);
                                  respond({201, json});
                                });
}

// The body is the input, or a form has it with more of what a subscription would give.
void invoke(Dispatcher& dispatcher, const RequestPtr& request, const Respond& respond) {
  auto version = dispatcher.functions().newest(request->path[1]);
  if (version == nullptr) return respond(no_function(request->path[1]));
  // The request lives until the answer: the call views it.
  protocol::Record record{.published_at_ms = now_ms(), .body = amqp::as_bytes(request->body)};
  CallInput input{.settles = false};
  for (auto& [name, content] : request->parts) {
    if (name == "input") {
      record.body = amqp::as_bytes(content);
    } else if (name == "routing_key") {
      record.routing_key = content;
    } else if (name == "state") {
      input.state = amqp::as_bytes(content);
    } else {
      return respond(bad_request("the form's parts are 'input', 'state' and 'routing_key'"));
    }
  }
  if (record.routing_key.size() > dispatch::kShortTextMaxBytes) {
    return respond(error_response(422, "refused", "a routing key has at most 255 bytes"));
  }
  if (input.state && version->protocol == schema::FunctionProtocol::plain) {
    return respond(error_response(422, "refused",
                                  "'" + version->name + "' is a plain program: it takes no state"));
  }
  input.records.push_back(record);
  dispatcher.functions().call(
      version, std::move(input), {"invoke", 1},
      [request, respond, version](const CallResult& result) {
        if (result.outcome == schema::Outcome::unavailable) {
          return respond(error_response(503, "unavailable", result.message));
        }
        respond({200, view(result, version->version)});
      });
}

Response log_entries(Dispatcher& dispatcher, const std::string& name, uint64_t after) {
  CallLog* log = dispatcher.functions().log(name);
  if (log == nullptr) return no_function(name);
  Json list = Json::array();
  for (const CallLogEntry& entry : log->after(after)) list.push_back(view(entry));
  return {200, list};
}

// Long polling: answers at once where there is something, else at the next entry or after the time
// that the client gives.
void logs(Dispatcher& dispatcher, uv_loop_t* loop, const RequestPtr& request,
          const Respond& respond) {
  std::string name = request->path[1];
  uint64_t after = number(*request, "after");
  uint64_t wait_ms = std::min(number(*request, "wait_ms"), kLogWaitMaxMs);
  CallLog* log = dispatcher.functions().log(name);
  Response now = log_entries(dispatcher, name, after);
  if (log == nullptr || !now.body.empty() || wait_ms == 0) return respond(now);
  struct Waiting {
    Respond respond;
    std::unique_ptr<net::Timer> timer;
  };
  auto waiting = std::make_shared<Waiting>();
  waiting->respond = respond;
  auto answer = [&dispatcher, waiting, name, after] {
    if (auto once = std::exchange(waiting->respond, nullptr)) {
      waiting->timer.reset();
      once(log_entries(dispatcher, name, after));
    }
  };
  waiting->timer = std::make_unique<net::Timer>(loop, answer);
  waiting->timer->start(wait_ms);
  log->when_added(answer);
}

bool read_destination(const Json* json, const char* name, Destination& to, std::string& mistake) {
  if (json == nullptr) return false;
  if (!json->is_object()) {
    mistake = std::string("'") + name + "' must be an object or null";
    return false;
  }
  Members members(*json);
  members.read("exchange", to.exchange);
  members.read("routing_key", to.routing_key);
  if (auto wrong = members.mistake()) mistake = std::string(name) + ": " + *wrong;
  return true;
}

void subscribe(Dispatcher& dispatcher, const RequestPtr& request, const Respond& respond) {
  auto json = json_object(request->body);
  if (!json) return respond(bad_request("the body is not a JSON object"));
  SubscriptionSettings settings{.name = request->path[1]};
  Members members(*json);
  members.read("queue", settings.queue);
  members.read("function", settings.function);
  members.read("concurrency", settings.concurrency);
  members.read("max_attempts", settings.attempts_max);
  members.read("backoff_min_ms", settings.backoff_min_ms);
  members.read("backoff_max_ms", settings.backoff_max_ms);
  members.read("paused", settings.paused);
  members.read("batch_size", settings.batch_size);
  members.read("batch_window_ms", settings.batch_window_ms);
  std::string name = settings.name;
  members.read("name", name);
  std::string mistake;
  bool failure_given =
      read_destination(members.find("on_failure"), "on_failure", settings.on_failure, mistake);
  Destination result;
  if (read_destination(members.find("result"), "result", result, mistake)) settings.result = result;
  if (auto wrong = members.mistake()) mistake = *wrong;
  if (mistake.empty() && name != settings.name) mistake = "'name' is not the name in the path";
  if (mistake.empty() && settings.queue.empty()) mistake = "'queue' is missing";
  if (mistake.empty() && settings.function.empty()) mistake = "'function' is missing";
  if (!mistake.empty()) return respond(bad_request(mistake));
  dispatcher.subscribe(std::move(settings), !failure_given, [respond](Expected<bool> created) {
    if (!created) return respond(error_response(created.error()));
    respond({*created ? 201 : 204, nullptr});
  });
}

std::function<void(Expected<>)> answer_with(const Respond& respond) {
  return [respond](const Expected<>& outcome) {
    respond(outcome ? Response{204, nullptr} : error_response(outcome.error()));
  };
}

}  // namespace

void add_functions(HttpServer& http, Dispatcher& dispatcher, uv_loop_t* loop) {
  http.route("GET", "functions", [&](const RequestPtr&, const Respond& respond) {
    Json list = Json::array();
    for (const std::string& name : dispatcher.functions().names()) {
      list.push_back(view(*dispatcher.functions().newest(name)));
    }
    respond({200, list});
  });
  http.route("GET", "functions/*", [&](const RequestPtr& request, const Respond& respond) {
    auto version = dispatcher.functions().newest(request->path[1]);
    respond(version ? Response{200, view(*version)} : no_function(request->path[1]));
  });
  http.route("GET", "functions/*/versions", [&](const RequestPtr& request, const Respond& respond) {
    Json list = Json::array();
    for (const auto& version : dispatcher.functions().versions(request->path[1])) {
      list.push_back(view(*version));
    }
    respond(list.empty() ? no_function(request->path[1]) : Response{200, list});
  });
  http.route("PUT", "functions/*", [&](const RequestPtr& request, const Respond& respond) {
    deploy(dispatcher, request, respond);
  });
  http.route("DELETE", "functions/*", [&](const RequestPtr& request, const Respond& respond) {
    dispatcher.remove_function(request->path[1], answer_with(respond));
  });
  http.route("POST", "functions/*/invoke", [&](const RequestPtr& request, const Respond& respond) {
    invoke(dispatcher, request, respond);
  });
  http.route("GET", "functions/*/logs",
             [&dispatcher, loop](const RequestPtr& request, const Respond& respond) {
               logs(dispatcher, loop, request, respond);
             });
}

void add_subscriptions(HttpServer& http, Dispatcher& dispatcher) {
  auto find = [&dispatcher](const std::string& name) -> const Subscription* {
    auto found = dispatcher.subscriptions().find(name);
    return found == dispatcher.subscriptions().end() ? nullptr : found->second.get();
  };
  http.route("GET", "subscriptions", [&](const RequestPtr&, const Respond& respond) {
    Json list = Json::array();
    for (const auto& [name, subscription] : dispatcher.subscriptions()) {
      list.push_back(view(*subscription));
    }
    respond({200, list});
  });
  http.route("GET", "subscriptions/*", [find](const RequestPtr& request, const Respond& respond) {
    const Subscription* subscription = find(request->path[1]);
    respond(subscription != nullptr
                ? Response{200, view(*subscription)}
                : error_response(404, "not_found", "no subscription '" + request->path[1] + "'"));
  });
  http.route("PUT", "subscriptions/*", [&](const RequestPtr& request, const Respond& respond) {
    subscribe(dispatcher, request, respond);
  });
  for (bool paused : {true, false}) {
    http.route("POST", paused ? "subscriptions/*/pause" : "subscriptions/*/resume",
               [&dispatcher, paused](const RequestPtr& request, const Respond& respond) {
                 dispatcher.pause(request->path[1], paused, answer_with(respond));
               });
  }
  http.route("DELETE", "subscriptions/*", [&](const RequestPtr& request, const Respond& respond) {
    dispatcher.unsubscribe(request->path[1], answer_with(respond));
  });
}

}  // namespace sluice::broker::admin
