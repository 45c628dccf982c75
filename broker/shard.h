#pragma once

#include <functional>
#include <string>

#include <uv.h>

#include "broker/net/handles.h"
#include "broker/queue/bodies.h"
#include "broker/queue/journal.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/server.h"
#include "broker/threads/courier.h"
#include "storage/store.h"

namespace sluice::broker {

// One thread's part of the broker: a loop, and what lives on it. Other threads reach it by mail
// only (broker/threads/courier.h).
class Shard {
 public:
  // `wakeup` belongs to `loop`; it is what the mailroom knows this shard by. `failed` is called, on
  // the shard's thread, when the store can not go on: see Journal::Failed. `message_bytes_max` is
  // what all messages of the process may take in RAM.
  Shard(uv_loop_t* loop, storage::Store& store, Names& names, Mailroom& mailroom, unsigned number,
        net::Wakeup& wakeup, std::string node_name, size_t message_bytes_max,
        Journal::Failed failed);

  uv_loop_t* loop() { return loop_; }
  Journal& journal() { return journal_; }
  VirtualHost& virtual_host() { return virtual_host_; }
  Server& server() { return server_; }

 private:
  uv_loop_t* loop_;
  Courier courier_;
  ResidentSet resident_;
  Journal journal_;
  Bodies bodies_;
  VirtualHost virtual_host_;
  Server server_;
  net::Timer mail_timer_;
  net::TurnEnd turn_end_;
};

}  // namespace sluice::broker
