#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <uv.h>

#include "broker/net/handles.h"
#include "broker/queue/bodies.h"
#include "broker/queue/journal.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/server.h"
#include "storage/store.h"

namespace sluice::broker {

// One thread's part of the broker: a loop, and what lives on it. Other threads reach it by post()
// only.
class Shard {
 public:
  // `failed` is called, on the shard's thread, when the store can not go on: see Journal::Failed.
  // `message_bytes_max` is what all messages of the process may take in RAM.
  Shard(uv_loop_t* loop, storage::Store& store, std::string node_name, size_t message_bytes_max,
        Journal::Failed failed);

  // Runs `work` on the shard's thread, from any thread; in order. Work that is posted when the
  // shard is stopping may not run: whoever waits for it must give up at some time.
  void post(std::function<void()> work);

  uv_loop_t* loop() { return loop_; }
  Journal& journal() { return journal_; }
  VirtualHost& virtual_host() { return virtual_host_; }
  Server& server() { return server_; }

 private:
  void run_posted();

  uv_loop_t* loop_;
  ResidentSet resident_;
  Journal journal_;
  Bodies bodies_;
  VirtualHost virtual_host_;
  Server server_;

  std::mutex posted_mutex_;  // guards the list alone: the way in from other threads
  std::vector<std::function<void()>> posted_;
  net::Wakeup posted_wakeup_;
  net::TurnEnd turn_end_;
};

}  // namespace sluice::broker
