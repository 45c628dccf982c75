#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "broker/dispatch/executor.h"
#include "broker/dispatch/functions.h"
#include "broker/dispatch/subscription.h"
#include "broker/routing/virtual_host.h"

namespace sluice::broker {

// The link between queues and functions: the executor, the functions, and the subscriptions, which
// it keeps in the catalog. On the first shard's thread; a subscription lives on its queue's shard.
class Dispatcher {
 public:
  Dispatcher(uv_loop_t* loop, VirtualHost& virtual_host, storage::Store& store,
             net::FlushList& flushes, std::string executor_program,
             std::vector<std::string> executor_arguments = {});
  ~Dispatcher();

  // After the virtual host's.
  Expected<> recover();
  void start() { executor_.start(); }
  // Calls in flight are lost: their messages stay unsettled, so a restart finds them.
  void stop();

  Executor& executor() { return executor_; }
  Functions& functions() { return functions_; }

  // Without a destination for failures, `on_failure` is null: it becomes the queue's dead-letter
  // queue, which is declared. True where the subscription is new; `done` when it is durable.
  void subscribe(SubscriptionSettings settings, bool default_failure,
                 std::function<void(Expected<bool>)> done);
  void pause(std::string_view name, bool paused, std::function<void(Expected<>)> done);
  void unsubscribe(std::string_view name, std::function<void(Expected<>)> done);
  // kExists while a subscription uses it.
  void remove_function(std::string_view name, std::function<void(Expected<>)> done);

  const std::map<std::string, std::shared_ptr<Subscription>, std::less<>>& subscriptions() const {
    return subscriptions_;
  }

 private:
  void save(const SubscriptionSettings& settings);
  void add(SubscriptionSettings settings);
  void executor_changed();

  VirtualHost& virtual_host_;
  storage::Store& store_;
  Executor executor_;
  Functions functions_;
  std::map<std::string, std::shared_ptr<Subscription>, std::less<>> subscriptions_;
};

}  // namespace sluice::broker
