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

void Server::adopt(int fd) {
  auto stream = net::Stream::adopt_tcp(loop_, fd, flushes_);
  if (!stream) {
    spdlog::warn("amqp: accept: {}", stream.error().message);
    return;
  }
  if (stopping_) return;
  auto connection = std::make_shared<Connection>(*this, std::move(*stream));
  connections_.insert(connection);
  connection->start();
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
  stopping_ = true;
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

void Server::unblock_publishing() {
  publishing_blocked_.reset();
  auto connections = connections_;  // what comes in may end some
  for (const auto& connection : connections) connection->unblock_publishing();
}

void Server::turn_end() {
  for (const auto& weak : std::exchange(confirms_due_, {})) {
    if (auto connection = weak.lock()) connection->flush_confirms();
  }
  flushes_.flush();
  ended_.clear();
}

}  // namespace sluice::broker
