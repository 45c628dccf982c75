#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <uv.h>

#include "broker/net/handles.h"
#include "broker/net/stream.h"
#include "broker/shard.h"

namespace sluice::broker {

// The shards of the process. The first one's loop is the main thread's; the others have threads of
// their own. Queues and connections are spread over them in turn.
class Shards {
 public:
  // See Shard.
  Shards(unsigned count, uv_loop_t* main_loop, storage::Store& store, const std::string& node_name,
         size_t message_bytes_max, const Journal::Failed& failed);

  Shard& first() { return *members_.front()->shard; }
  unsigned count() const { return static_cast<unsigned>(members_.size()); }
  Shard& operator[](unsigned number) { return *members_[number]->shard; }

  // Runs `work` on a shard's thread, from any thread; in order.
  void post(unsigned shard, Mail work) { mailroom_.post(shard, std::move(work)); }
  void post_all(const std::function<void(Shard&)>& work);

  // Starts the threads: after recovery.
  void start();
  // The AMQP listener.
  Expected<> listen(const std::string& host, uint16_t port);
  const std::string& host() const { return listener_->host(); }
  uint16_t port() const { return listener_->port(); }

  // On the main thread: closes the listener and all connections; `done` when they have ended and
  // all is durable. The threads still run, then.
  void stop(std::function<void()> done);
  // Ends the threads. Nothing is done on the shards any more.
  void join();

  // Messages' bytes that are not on disk yet.
  size_t unwritten_bytes() const;

 private:
  struct Member {
    uv_loop_t own_loop;
    uv_loop_t* loop;
    std::unique_ptr<net::Wakeup> wakeup;
    std::unique_ptr<Shard> shard;
    std::thread thread;
  };

  Mailroom mailroom_;
  Names names_{"/"};
  std::vector<std::unique_ptr<Member>> members_;
  std::unique_ptr<net::Listener> listener_;
  unsigned next_connection_ = 0;
};

}  // namespace sluice::broker
