#include "broker/routing/exchange.h"

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "broker/routing/topic_trie.h"

namespace sluice::broker {

namespace {

class DirectRouter : public Router {
 public:
  void add(const Binding& binding) override {
    queues_[binding.routing_key].push_back(binding.queue);
  }
  void remove(const Binding& binding) override {
    auto found = queues_.find(binding.routing_key);
    if (found == queues_.end()) return;
    auto at = std::ranges::find(found->second, binding.queue);
    if (at != found->second.end()) found->second.erase(at);
    if (found->second.empty()) queues_.erase(found);
  }
  void route(const RoutingInput& input, const Sink& sink) const override {
    auto found = queues_.find(input.routing_key);
    if (found == queues_.end()) return;
    for (Queue* queue : found->second) sink(queue);
  }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, std::vector<Queue*>, Hash, std::equal_to<>> queues_;
};

class FanoutRouter : public Router {
 public:
  void add(const Binding& binding) override { queues_.push_back(binding.queue); }
  void remove(const Binding& binding) override {
    auto at = std::ranges::find(queues_, binding.queue);
    if (at != queues_.end()) queues_.erase(at);
  }
  void route(const RoutingInput&, const Sink& sink) const override {
    for (Queue* queue : queues_) sink(queue);
  }

 private:
  std::vector<Queue*> queues_;
};

class TopicRouter : public Router {
 public:
  void add(const Binding& binding) override { trie_.add(binding.routing_key, binding.queue); }
  void remove(const Binding& binding) override { trie_.remove(binding.routing_key, binding.queue); }
  void route(const RoutingInput& input, const Sink& sink) const override {
    trie_.match(input.routing_key, sink);
  }

 private:
  TopicTrie trie_;
};

// x-match: all (default) and any leave out the fields whose names begin with "x-"; the -with-x
// forms take them in. A void value asks only that the header is there.
class HeadersRouter : public Router {
 public:
  void add(const Binding& binding) override { bindings_.push_back(binding); }
  void remove(const Binding& binding) override {
    auto at = std::ranges::find_if(bindings_, [&](const Binding& b) { return b.same(binding); });
    if (at != bindings_.end()) bindings_.erase(at);
  }
  void route(const RoutingInput& input, const Sink& sink) const override {
    static const amqp::Table kNone;
    const amqp::Table* headers = input.headers();
    for (const Binding& binding : bindings_) {
      if (matches(binding.arguments, headers != nullptr ? *headers : kNone)) sink(binding.queue);
    }
  }

 private:
  static bool matches(const amqp::Table& arguments, const amqp::Table& headers) {
    const amqp::Field* x_match = arguments.find("x-match");
    const std::string* mode = x_match != nullptr ? x_match->text() : nullptr;
    bool any = mode != nullptr && mode->starts_with("any");
    bool with_x = mode != nullptr && mode->ends_with("-with-x");
    for (const auto& [name, wanted] : arguments.fields) {
      if (name == "x-match" || (!with_x && name.starts_with("x-"))) continue;
      const amqp::Field* header = headers.find(name);
      bool presence = std::holds_alternative<std::monostate>(wanted.value);
      bool equal = header != nullptr && (presence || amqp::equivalent(*header, wanted));
      if (equal && any) return true;
      if (!equal && !any) return false;
    }
    return !any;
  }

  std::vector<Binding> bindings_;
};

}  // namespace

std::unique_ptr<Router> Router::make(std::string_view type) {
  if (type == "direct") return std::make_unique<DirectRouter>();
  if (type == "fanout") return std::make_unique<FanoutRouter>();
  if (type == "topic") return std::make_unique<TopicRouter>();
  if (type == "headers") return std::make_unique<HeadersRouter>();
  return nullptr;
}

Exchange::Exchange(ExchangeSettings settings)
    : settings_(std::move(settings)), router_(Router::make(settings_.type)) {
  CHECK(router_ != nullptr);
}

bool Exchange::bind(Binding binding) {
  if (std::ranges::any_of(bindings_, [&](const Binding& b) { return b.same(binding); })) {
    return false;
  }
  router_->add(binding);
  bindings_.push_back(std::move(binding));
  had_bindings_ = true;
  return true;
}

bool Exchange::unbind(const Binding& binding) {
  auto at = std::ranges::find_if(bindings_, [&](const Binding& b) { return b.same(binding); });
  if (at == bindings_.end()) return false;
  router_->remove(*at);
  bindings_.erase(at);
  return true;
}

std::vector<Binding> Exchange::unbind_all(const Queue* queue) {
  std::vector<Binding> removed;
  std::erase_if(bindings_, [&](const Binding& binding) {
    if (binding.queue != queue) return false;
    router_->remove(binding);
    removed.push_back(binding);
    return true;
  });
  return removed;
}

}  // namespace sluice::broker
