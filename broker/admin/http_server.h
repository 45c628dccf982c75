#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/error.h"
#include "broker/admin/views.h"
#include "broker/shards.h"

namespace sluice::broker::admin {

// A request, taken apart: no type of the HTTP library is seen outside http_server.cc.
struct Request {
  std::string method;
  std::vector<std::string> path;  // decoded segments behind /api
  std::map<std::string, std::string> query;
  std::string body;
  std::map<std::string, std::string> parts;  // of a multipart form

  std::string query_or(const std::string& name, std::string fallback) const {
    auto found = query.find(name);
    return found == query.end() ? fallback : found->second;
  }
};

using RequestPtr = std::shared_ptr<Request>;

struct Response {
  int status = 200;
  Json body;  // null: none
};

// 400 and so on, with RabbitMQ's error object.
Response error_response(int status, std::string_view error, std::string_view reason);
Response bad_request(std::string_view reason);
Response error_response(const Error& error);
Response error_response(const amqp::ProtocolError& error);

// Answers a request; called once, on the first shard's thread, now or later.
using Respond = std::function<void(Response)>;
// Runs on the first shard's thread while the others stand still: it may look at all of them.
using Handler = std::function<void(const RequestPtr&, Respond)>;

// HTTP for the administration: its own threads parse, authenticate and wait; handlers run on the
// first shard's. A handler that does not answer in time gives the client a 503.
class HttpServer {
 public:
  explicit HttpServer(Shards& shards);
  ~HttpServer();

  // `pattern` is a path below /api whose segments are names or "*". Before listen().
  void route(std::string method, std::string_view pattern, Handler handler);

  // Holds on to what the handlers use, as long as the server lives.
  void keep(std::shared_ptr<void> object) { kept_.push_back(std::move(object)); }

  Expected<> listen(const std::string& host, uint16_t port);
  uint16_t port() const { return port_; }
  // Stops listening. Requests under way are not waited for.
  void stop();

 private:
  struct Library;
  struct Route {
    std::string method;
    std::vector<std::string> pattern;
    Handler handler;
  };
  Response handle(const RequestPtr& request);
  const Route* find(const Request& request, bool& path_known) const;

  Shards& shards_;
  std::unique_ptr<Library> library_;
  std::vector<Route> routes_;
  std::vector<std::shared_ptr<void>> kept_;
  std::thread thread_;
  uint16_t port_ = 0;
};

}  // namespace sluice::broker::admin
