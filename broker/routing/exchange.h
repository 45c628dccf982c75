#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "broker/amqp/table.h"
#include "broker/queue/queue.h"

namespace sluice::broker {

struct ExchangeSettings {
  std::string name;
  std::string type;  // direct, fanout, topic, headers
  bool durable = false;
  bool auto_delete = false;
  bool internal = false;
  amqp::Table arguments;
};

struct Binding {
  Queue* queue = nullptr;
  std::string routing_key;
  amqp::Table arguments;

  bool same(const Binding& other) const {
    return queue == other.queue && routing_key == other.routing_key && arguments == other.arguments;
  }
};

// What an exchange decides by. `headers` is asked for only by the type that needs it.
struct RoutingInput {
  std::string_view routing_key;
  std::function<const amqp::Table*()> headers;  // null where the message has none
};

// Finds the queues of one exchange type. A queue may be reported more than once.
class Router {
 public:
  using Sink = std::function<void(Queue*)>;

  // Null where the type is not known.
  static std::unique_ptr<Router> make(std::string_view type);
  virtual ~Router() = default;
  virtual void add(const Binding& binding) = 0;
  virtual void remove(const Binding& binding) = 0;
  // From several threads at a time.
  virtual void route(const RoutingInput& input, const Sink& sink) const = 0;
};

// An exchange: its settings, its bindings, and the router that follows from its type. Changed only
// while no other thread reads it.
class Exchange {
 public:
  // The type must be one that Router::make knows.
  explicit Exchange(ExchangeSettings settings);

  const ExchangeSettings& settings() const { return settings_; }
  const std::vector<Binding>& bindings() const { return bindings_; }
  bool had_bindings() const { return had_bindings_; }

  // False where it is there already.
  bool bind(Binding binding);
  // False where there is none such.
  bool unbind(const Binding& binding);
  // Removes all bindings to `queue` and returns them.
  std::vector<Binding> unbind_all(const Queue* queue);

  void route(const RoutingInput& input, const Router::Sink& sink) const {
    router_->route(input, sink);
  }

 private:
  const ExchangeSettings settings_;
  std::unique_ptr<Router> router_;
  std::vector<Binding> bindings_;
  bool had_bindings_ = false;
};

}  // namespace sluice::broker
