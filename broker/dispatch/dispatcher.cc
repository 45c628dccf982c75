#include "broker/dispatch/dispatcher.h"

#include <flatbuffers/flatbuffers.h>

#include "broker/dispatch/limits.h"
#include "broker/dispatch/names.h"
#include "schemas/catalog_generated.h"

namespace sluice::broker {

namespace {

using namespace dispatch;
using storage::CatalogKind;

Expected<> check(const SubscriptionSettings& settings) {
  if (!valid_name(settings.name)) {
    return fail(Code::kInvalid, "a subscription's " + std::string(kNameRule));
  }
  if (settings.concurrency == 0 || settings.concurrency > kConcurrencyMax) {
    return fail(Code::kLimit, "concurrency is between 1 and " + std::to_string(kConcurrencyMax));
  }
  if (settings.attempts_max == 0 || settings.attempts_max > kAttemptsMax) {
    return fail(Code::kLimit, "max_attempts is between 1 and " + std::to_string(kAttemptsMax));
  }
  if (settings.backoff_max_ms > kBackoffMaxMs ||
      settings.backoff_min_ms > settings.backoff_max_ms) {
    return fail(Code::kLimit, "the back-off runs from a shorter to a longer time, at most " +
                                  std::to_string(kBackoffMaxMs) + " ms");
  }
  if (settings.batch_size == 0 || settings.batch_size > kBatchSizeMax) {
    return fail(Code::kLimit, "batch_size is between 1 and " + std::to_string(kBatchSizeMax));
  }
  if (settings.batch_window_ms > kBatchWindowMaxMs) {
    return fail(Code::kLimit, "batch_window_ms is at most " + std::to_string(kBatchWindowMaxMs));
  }
  if (settings.on_failure.exchange.empty() && settings.on_failure.routing_key == settings.queue) {
    return fail(Code::kInvalid,
                "on_failure is the subscription's own queue: what fails would come "
                "back for ever");
  }
  for (const Destination* to :
       {&settings.on_failure, settings.result ? &*settings.result : nullptr}) {
    if (to != nullptr && (to->exchange.size() > 255 || to->routing_key.size() > 255)) {
      return fail(Code::kLimit, "an exchange or routing key has at most 255 bytes");
    }
  }
  return {};
}

std::string text_of(const flatbuffers::String* text) { return text != nullptr ? text->str() : ""; }

std::unexpected<Error> no_subscription(std::string_view name) {
  return fail(Code::kNotFound, "no subscription '" + std::string(name) + "'");
}

}  // namespace

Dispatcher::Dispatcher(uv_loop_t* loop, VirtualHost& virtual_host, storage::Store& store,
                       net::FlushList& flushes, std::string executor_program,
                       std::vector<std::string> executor_arguments)
    : virtual_host_(virtual_host),
      store_(store),
      executor_(loop, std::move(executor_program), std::move(executor_arguments), flushes,
                [this] { executor_changed(); }),
      functions_(loop, store, virtual_host, executor_) {
  virtual_host_.when_queue_created([this](const std::shared_ptr<Queue>& queue) {
    for (auto& [name, subscription] : subscriptions_) {
      if (subscription->settings().queue == queue->name() && queue->owner == nullptr) {
        subscription->attach(queue);
      }
    }
  });
}

Dispatcher::~Dispatcher() {
  stop();
  for (auto& [name, subscription] : subscriptions_) subscription->close();
}

void Dispatcher::stop() { executor_.stop(); }

void Dispatcher::executor_changed() {
  VirtualHost::Change change(virtual_host_);
  functions_.executor_changed();
  for (auto& [name, subscription] : subscriptions_) {
    // What will be called is loaded at once; the rest when it is called.
    auto version = functions_.newest(subscription->settings().function);
    if (version != nullptr && executor_.state() == Executor::State::kRunning) {
      functions_.prepare(version);
    }
    subscription->wake();
  }
}

Expected<> Dispatcher::recover() {
  if (auto done = functions_.recover(); !done) return done;
  auto entries = store_.catalog(CatalogKind::kSubscription);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(entry.value.data()),
                                   entry.value.size());
    if (!verifier.VerifyBuffer<schema::SubscriptionRecord>(nullptr)) {
      return fail(Code::kCorrupt, "the record of subscription '" + entry.key + "' is damaged");
    }
    const auto* record = flatbuffers::GetRoot<schema::SubscriptionRecord>(entry.value.data());
    SubscriptionSettings settings{
        .name = record->name()->str(),
        .queue = record->queue()->str(),
        .function = record->function()->str(),
        .concurrency = record->concurrency(),
        .attempts_max = record->max_attempts(),
        .backoff_min_ms = record->backoff_min_ms(),
        .backoff_max_ms = record->backoff_max_ms(),
        .on_failure = {text_of(record->failure_exchange()), text_of(record->failure_routing_key())},
        .result = std::nullopt,
        .paused = record->paused(),
        .batch_size = record->batch_size(),
        .batch_window_ms = record->batch_window_ms()};
    if (record->result()) {
      settings.result =
          Destination{text_of(record->result_exchange()), text_of(record->result_routing_key())};
    }
    add(std::move(settings));
  }
  return {};
}

void Dispatcher::add(SubscriptionSettings settings) {
  auto subscription =
      std::make_shared<Subscription>(virtual_host_, functions_, executor_, std::move(settings));
  subscriptions_.emplace(subscription->settings().name, subscription);
  auto queue = virtual_host_.queues().find(subscription->settings().queue);
  if (queue != virtual_host_.queues().end()) subscription->attach(queue->second);
}

void Dispatcher::save(const SubscriptionSettings& settings) {
  flatbuffers::FlatBufferBuilder builder;
  auto name = builder.CreateString(settings.name);
  auto queue = builder.CreateString(settings.queue);
  auto function = builder.CreateString(settings.function);
  auto failure_exchange = builder.CreateString(settings.on_failure.exchange);
  auto failure_key = builder.CreateString(settings.on_failure.routing_key);
  Destination result = settings.result.value_or(Destination());
  auto result_exchange = builder.CreateString(result.exchange);
  auto result_key = builder.CreateString(result.routing_key);
  builder.Finish(schema::CreateSubscriptionRecord(
      builder, name, queue, function, settings.concurrency, settings.attempts_max,
      settings.backoff_min_ms, settings.backoff_max_ms, failure_exchange, failure_key,
      settings.result.has_value(), result_exchange, result_key, settings.paused,
      settings.batch_size, settings.batch_window_ms));
  virtual_host_.journal().changes().definitions.push_back(
      {CatalogKind::kSubscription, settings.name,
       std::string(reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize())});
}

void Dispatcher::subscribe(SubscriptionSettings settings, bool default_failure,
                           std::function<void(Expected<bool>)> done) {
  VirtualHost::Change change(virtual_host_);
  auto refuse = [&](Error error) { done(std::unexpected(std::move(error))); };
  auto found = subscriptions_.find(settings.name);
  bool is_new = found == subscriptions_.end();
  if (!is_new && found->second->settings().queue != settings.queue) {
    return refuse({Code::kExists, "subscription '" + settings.name + "' reads the queue '" +
                                      found->second->settings().queue +
                                      "'; delete it to subscribe to another"});
  }
  auto queue = virtual_host_.use_queue(settings.queue, nullptr);
  if (!queue) return refuse({Code::kNotFound, queue.error().text});
  if (is_new && (*queue)->has_exclusive_consumer()) {
    return refuse({Code::kExists, "the queue '" + settings.queue + "' has an exclusive consumer"});
  }
  auto function = functions_.newest(settings.function);
  if (function == nullptr) {
    return refuse({Code::kNotFound, "no function '" + settings.function + "'; deploy it first"});
  }
  if (settings.batch_size > 1 && function->protocol == schema::FunctionProtocol::plain) {
    return refuse({Code::kInvalid,
                   "batch_size must be 1: '" + settings.function +
                       "' is a plain program, whose stdin is one message; one that is to take "
                       "several speaks the function protocol"});
  }
  if (default_failure) settings.on_failure = {"", settings.queue + ".dead-letter"};
  if (auto checked = check(settings); !checked) return refuse(checked.error());
  if (default_failure) {
    if (!virtual_host_.queues().contains(settings.on_failure.routing_key)) {
      auto declared = virtual_host_.declare_queue(
          {.name = settings.on_failure.routing_key, .durable = true}, nullptr);
      if (!declared) return refuse({Code::kInvalid, declared.error().text});
    }
  } else if (!virtual_host_.exchanges().contains(settings.on_failure.exchange)) {
    return refuse(
        {Code::kNotFound, "on_failure: no exchange '" + settings.on_failure.exchange + "'"});
  }
  if (settings.result && !virtual_host_.exchanges().contains(settings.result->exchange)) {
    return refuse({Code::kNotFound, "result: no exchange '" + settings.result->exchange + "'"});
  }
  save(settings);
  if (is_new) {
    add(std::move(settings));
  } else {
    found->second->change(std::move(settings));
  }
  virtual_host_.journal().when_durable([done = std::move(done), is_new] { done(is_new); });
}

void Dispatcher::pause(std::string_view name, bool paused, std::function<void(Expected<>)> done) {
  VirtualHost::Change change(virtual_host_);
  auto found = subscriptions_.find(name);
  if (found == subscriptions_.end()) return done(no_subscription(name));
  SubscriptionSettings settings = found->second->settings();
  settings.paused = paused;
  save(settings);
  found->second->change(std::move(settings));
  virtual_host_.journal().when_durable([done = std::move(done)] { done({}); });
}

void Dispatcher::unsubscribe(std::string_view name, std::function<void(Expected<>)> done) {
  VirtualHost::Change change(virtual_host_);
  auto found = subscriptions_.find(name);
  if (found == subscriptions_.end()) return done(no_subscription(name));
  auto subscription = found->second;
  subscriptions_.erase(found);
  subscription->close();
  virtual_host_.journal().changes().definitions.push_back(
      {CatalogKind::kSubscription, std::string(name), std::nullopt});
  virtual_host_.journal().when_durable([done = std::move(done)] { done({}); });
}

void Dispatcher::remove_function(std::string_view name, std::function<void(Expected<>)> done) {
  for (const auto& [key, subscription] : subscriptions_) {
    if (subscription->settings().function == name) {
      return done(fail(Code::kExists, "subscription '" + key + "' uses the function '" +
                                          std::string(name) + "'; delete it first"));
    }
  }
  functions_.remove(name, std::move(done));
}

}  // namespace sluice::broker
