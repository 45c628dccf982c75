#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "broker/net/stream.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/connection.h"

namespace sluice::broker {

// What clients see as the server's version; some choose their behaviour by it (bunny, kombu).
inline constexpr const char* kCompatibleVersion = "3.13.7";

// A shard's AMQP connections. On the shard's thread.
class Server {
 public:
  Server(uv_loop_t* loop, VirtualHost& virtual_host, std::string node_name);
  ~Server();

  // Serves a connected socket, which it owns from now on.
  void adopt(int fd);

  // Closes all connections, with CONNECTION_FORCED; `done` when they have ended.
  void stop(std::function<void()> done);

  // Connections that publish are told the reason and not read from, until it is taken back.
  void block_publishing(std::string reason) { publishing_blocked_ = std::move(reason); }
  void unblock_publishing();
  const std::optional<std::string>& publishing_blocked() const { return publishing_blocked_; }

  // To be called at the end of each turn: confirms, then output.
  void turn_end();
  // True where turn_end() would send something now.
  bool has_output() const { return !confirms_due_.empty() || !flushes_.empty(); }

  uv_loop_t* loop() { return loop_; }
  net::FlushList& flushes() { return flushes_; }
  VirtualHost& virtual_host() { return virtual_host_; }
  const std::string& node_name() const { return node_name_; }
  const std::unordered_set<std::shared_ptr<Connection>>& connections() const {
    return connections_;
  }

  // For connections.
  bool authenticate(std::string_view user, std::string_view password,
                    const std::string& peer) const;
  void ended(const std::shared_ptr<Connection>& connection);
  void confirms_due(Connection* connection) {
    confirms_due_.push_back(connection->weak_from_this());
  }

 private:
  uv_loop_t* loop_;
  VirtualHost& virtual_host_;
  const std::string node_name_;
  net::FlushList flushes_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
  std::vector<std::shared_ptr<Connection>> ended_;  // until the turn is over
  std::vector<std::weak_ptr<Connection>> confirms_due_;
  bool stopping_ = false;
  std::function<void()> stopped_;
  std::optional<std::string> publishing_blocked_;
};

}  // namespace sluice::broker
