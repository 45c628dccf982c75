#include "broker/session/server.h"

#include <spdlog/spdlog.h>

namespace sluice::broker {

namespace {

bool is_loopback(const std::string& peer) {
  return peer.starts_with("127.") || peer.starts_with("::1:") || peer.starts_with("::ffff:127.");
}

}  // namespace

Server::Server(uv_loop_t* loop, VirtualHost& virtual_host, std::string node_name)
    : loop_(loop), virtual_host_(virtual_host), node_name_(std::move(node_name)) {}

Server::~Server() = default;

Expected<> Server::listen(const std::string& host, uint16_t port) {
  auto listener = net::Listener::tcp(loop_, host, port, [this](uv_stream_t* handle) {
    auto stream = net::Stream::accept(handle, flushes_);
    if (!stream) {
      spdlog::warn("amqp: accept: {}", stream.error().message);
      return;
    }
    auto connection = std::make_shared<Connection>(*this, std::move(*stream));
    connections_.insert(connection);
    connection->start();
  });
  if (!listener) return std::unexpected(listener.error());
  listener_ = std::move(*listener);
  return {};
}

bool Server::authenticate(std::string_view user, std::string_view password,
                          const std::string& peer) const {
  return user == "guest" && password == "guest" && is_loopback(peer);
}

void Server::ended(const std::shared_ptr<Connection>& connection) {
  ended_.push_back(connection);
  connections_.erase(connection);
  if (connections_.empty() && stopped_) std::exchange(stopped_, nullptr)();
}

void Server::stop(std::function<void()> done) {
  listener_.reset();
  if (connections_.empty()) {
    done();
    return;
  }
  stopped_ = std::move(done);
  auto connections = connections_;
  for (const auto& connection : connections) {
    connection->shutdown(amqp::ReplyCode::kConnectionForced, "broker forced connection closure");
  }
}

void Server::turn_end() {
  for (const auto& weak : std::exchange(confirms_due_, {})) {
    if (auto connection = weak.lock()) connection->flush_confirms();
  }
  flushes_.flush();
  ended_.clear();
}

}  // namespace sluice::broker
