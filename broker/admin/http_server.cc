#include "broker/admin/http_server.h"

#include <future>

#include <httplib.h>
#include <spdlog/spdlog.h>

#include "broker/dispatch/limits.h"

namespace sluice::broker::admin {

namespace {

// An image with a root file system, and room for the rest of the form.
constexpr size_t kPayloadMaxBytes =
    dispatch::kImageMaxBytes + dispatch::kRootfsMaxBytes + (16u << 20);
// Idle ones cost next to nothing; each slow client or long poll holds one.
constexpr size_t kThreads = 64;
// Longer than the longest call of a function may take.
constexpr auto kAnswerTimeout = std::chrono::minutes(16);

std::vector<std::string> segments_of(std::string_view path) {
  std::vector<std::string> segments;
  while (!path.empty()) {
    size_t slash = path.find('/');
    std::string_view segment = path.substr(0, slash);
    if (!segment.empty()) {
      segments.push_back(httplib::detail::decode_url(std::string(segment), false));
    }
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return segments;
}

// What is large is moved out of the library's request, which nobody reads any more.
RequestPtr take_apart(httplib::Request& from) {
  auto request = std::make_shared<Request>();
  request->method = from.method;
  // The raw target: an encoded slash is part of a name.
  std::string_view target = from.target;
  request->path = segments_of(target.substr(0, target.find('?')));
  for (const auto& [name, value] : from.params) request->query.emplace(name, value);
  request->body = std::move(from.body);
  for (auto& [name, part] : from.files) request->parts.emplace(name, std::move(part.content));
  return request;
}

// "Basic base64(user:password)", taken apart by decoding both sides the same way.
bool parse_basic(const httplib::Request& request, std::string& user, std::string& password) {
  std::string header = request.get_header_value("Authorization");
  if (!header.starts_with("Basic ")) return false;
  std::string encoded = header.substr(6);
  std::string decoded(encoded.size(), '\0');
  int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(decoded.data()),
                               reinterpret_cast<const unsigned char*>(encoded.data()),
                               static_cast<int>(encoded.size()));
  if (length < 0) return false;
  size_t padding = encoded.ends_with("==") ? 2 : encoded.ends_with("=") ? 1 : 0;
  decoded.resize(static_cast<size_t>(length) - padding);
  size_t colon = decoded.find(':');
  if (colon == std::string::npos) return false;
  user = decoded.substr(0, colon);
  password = decoded.substr(colon + 1);
  return true;
}

}  // namespace

Response error_response(int status, std::string_view error, std::string_view reason) {
  return {status, {{"error", error}, {"reason", printable(reason)}}};
}

Response bad_request(std::string_view reason) { return error_response(400, "bad_request", reason); }

Response error_response(const Error& error) {
  switch (error.code) {
    case Code::kNotFound:
      return error_response(404, "not_found", error.message);
    case Code::kExists:
      return error_response(409, "conflict", error.message);
    case Code::kInvalid:
    case Code::kLimit:
      return error_response(422, "refused", error.message);
    case Code::kUnavailable:
      return error_response(503, "unavailable", error.message);
    default:
      return error_response(500, "internal", error.message);
  }
}

Response error_response(const amqp::ProtocolError& error) {
  switch (error.code) {
    case amqp::ReplyCode::kNotFound:
      return error_response(404, "not_found", error.text);
    case amqp::ReplyCode::kPreconditionFailed:
    case amqp::ReplyCode::kResourceLocked:
      return error_response(409, "conflict", error.text);
    default:
      return error_response(422, "refused", error.text);
  }
}

struct HttpServer::Library {
  httplib::Server server;
};

HttpServer::HttpServer(Shards& shards) : shards_(shards), library_(std::make_unique<Library>()) {
  httplib::Server& server = library_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // The library's own choice, SO_REUSEPORT, would let two brokers share the port.
  server.set_socket_options([](socket_t socket) {
    int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_payload_max_length(kPayloadMaxBytes);
  auto send = [](const Response& response, httplib::Response& to) {
    to.status = response.status;
    if (response.body.is_null()) return;
    to.set_content(response.body.dump(-1, ' ', false, Json::error_handler_t::replace),
                   "application/json");
  };
  // Before the body is read: a stranger's is not.
  server.set_pre_routing_handler([this, send](const httplib::Request& from, httplib::Response& to) {
    std::string user, password;
    if (parse_basic(from, user, password) &&
        shards_.first().server().authenticate(user, password, from.remote_addr + ":")) {
      return httplib::Server::HandlerResponse::Unhandled;
    }
    to.set_header("WWW-Authenticate", "Basic realm=\"Sluice\"");
    to.set_header("Connection", "close");
    send(error_response(401, "not_authorized", "log in with a user's name and password"), to);
    return httplib::Server::HandlerResponse::Handled;
  });
  auto answer = [this, send](const httplib::Request& from, httplib::Response& to) {
    // The object is the library's own, and not const.
    send(handle(take_apart(const_cast<httplib::Request&>(from))), to);
  };
  server.Get(".*", answer);
  server.Put(".*", answer);
  server.Post(".*", answer);
  server.Delete(".*", answer);
}

HttpServer::~HttpServer() {
  stop();
  if (thread_.joinable()) thread_.join();
}

void HttpServer::route(std::string method, std::string_view pattern, Handler handler) {
  routes_.push_back({std::move(method), segments_of(pattern), std::move(handler)});
}

Expected<> HttpServer::listen(const std::string& host, uint16_t port) {
  httplib::Server& server = library_->server;
  int bound = port;
  if (port == 0) {
    bound = server.bind_to_any_port(host);
  } else if (!server.bind_to_port(host, port)) {
    bound = -1;
  }
  if (bound < 0) {
    return fail(Code::kIo, "cannot listen on " + host + ":" + std::to_string(port) +
                               " for the administration: is the port in use?");
  }
  port_ = static_cast<uint16_t>(bound);
  thread_ = std::thread([&server] { server.listen_after_bind(); });
  return {};
}

void HttpServer::stop() { library_->server.stop(); }

const HttpServer::Route* HttpServer::find(const Request& request, bool& path_known) const {
  path_known = false;
  for (const Route& route : routes_) {
    if (route.pattern.size() != request.path.size()) continue;
    bool match = true;
    for (size_t i = 0; i < route.pattern.size() && match; ++i) {
      match = route.pattern[i] == "*" || route.pattern[i] == request.path[i];
    }
    if (!match) continue;
    path_known = true;
    if (route.method == request.method) return &route;
  }
  return nullptr;
}

Response HttpServer::handle(const RequestPtr& request) {
  if (request->path.empty() || request->path.front() != "api") {
    return error_response(404, "not_found", "the administration is below /api");
  }
  request->path.erase(request->path.begin());
  bool path_known = false;
  const Route* route = find(*request, path_known);
  if (route == nullptr) {
    return path_known ? error_response(405, "method_not_allowed", request->method)
                      : error_response(404, "not_found", "there is nothing at this path");
  }
  auto promise = std::make_shared<std::promise<Response>>();
  auto future = promise->get_future();
  shards_.post(0, [route, request, promise, &host = shards_.first().virtual_host()] {
    VirtualHost::Change change(host);
    route->handler(request,
                   [promise](Response response) { promise->set_value(std::move(response)); });
  });
  if (future.wait_for(kAnswerTimeout) != std::future_status::ready) {
    return error_response(503, "timeout", "the broker did not answer in time");
  }
  return future.get();
}

}  // namespace sluice::broker::admin
