#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "broker/routing/exchange.h"
#include "storage/store.h"

namespace sluice::broker {

class VirtualHost;

// What a virtual host's shards have in common: the names of its exchanges and queues, and the
// bindings between them. Every shard reads them at any time; one changes them only while the others
// stand still (VirtualHost::Change).
struct Names {
  // With the exchanges that are always there.
  explicit Names(std::string name);

  const std::string name;
  std::map<std::string, std::unique_ptr<Exchange>, std::less<>> exchanges;
  std::map<std::string, std::shared_ptr<Queue>, std::less<>> queues;
  std::vector<VirtualHost*> hosts;  // each shard's
  size_t next_home = 0;             // where the next queue will live: they take turns
  storage::QueueId last_queue_id = 0;
  // What is to be written of the change at hand.
  std::vector<storage::Batch::Definition> definitions;
  // Called when a queue has come into being.
  std::function<void(const std::shared_ptr<Queue>&)> queue_created;
};

}  // namespace sluice::broker
