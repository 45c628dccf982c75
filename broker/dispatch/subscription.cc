#include "broker/dispatch/subscription.h"

#include <algorithm>

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/dispatch/limits.h"
#include "broker/routing/dead_letter.h"

namespace sluice::broker {

using namespace dispatch;

// A message on its way through the function.
struct Subscription::Call {
  Entry entry;
  const uint64_t epoch;
  // What the first shard needs of it.
  VirtualHost* const host;
  const Functions::VersionPtr function;
  const Functions::Caller caller;
  const storage::RecordPtr record;
};

Subscription::Subscription(VirtualHost& virtual_host, Functions& functions,
                           const Executor& executor, SubscriptionSettings settings)
    : functions_host_(virtual_host),
      functions_(functions),
      executor_(executor),
      settings_(std::move(settings)) {}

Subscription::~Subscription() { CHECK(queue_ == nullptr); }

std::string_view Subscription::state() const {
  if (settings_.paused) return "paused";
  return state_reason().empty() ? "running" : "waiting";
}

std::string Subscription::state_reason() const {
  if (queue_ == nullptr) return "the queue '" + settings_.queue + "' does not exist";
  if (functions_.newest(settings_.function) == nullptr) {
    return "the function '" + settings_.function + "' does not exist";
  }
  if (executor_.state() != Executor::State::kRunning) return executor_.reason();
  return {};
}

void Subscription::attach(const std::shared_ptr<Queue>& queue) {
  CHECK(queue_ == nullptr);
  queue_ = queue;
  host_ = &functions_host_.host_of(*queue);
  retry_timer_.emplace(host_->journal().loop(), [this] { retry_due(); });
  ++epoch_;
  queue_->add_consumer(this, false);
}

void Subscription::change(SubscriptionSettings settings) {
  CHECK(settings.name == settings_.name && settings.queue == settings_.queue);
  bool pausing = settings.paused && !settings_.paused;
  settings_ = std::move(settings);
  if (pausing) give_back();
  wake();
}

void Subscription::wake() {
  if (queue_ == nullptr) return;
  retry_due();
  queue_->consumer_ready(this);
}

// Messages that wait for their next attempt go back to the queue, for others to take.
void Subscription::give_back() {
  retry_timer_->stop();
  auto waiting = std::exchange(waiting_, {});
  std::vector<Entry> entries;
  for (auto& [due, entry] : waiting) entries.push_back(std::move(entry));
  std::ranges::sort(entries, {}, &Entry::sequence);
  for (Entry& entry : entries) queue_->requeue(std::move(entry), Queue::Counts::kNo);
}

void Subscription::close() {
  if (queue_ == nullptr) return;
  auto queue = queue_;
  queue->remove_consumer(this);
  give_back();
  auto calls = std::exchange(calls_, {});
  std::vector<Entry> entries;
  for (auto& [key, call] : calls) entries.push_back(call->entry);
  std::ranges::sort(entries, {}, &Entry::sequence);
  for (Entry& entry : entries) queue->requeue(std::move(entry), Queue::Counts::kNo);
  VirtualHost* host = host_;
  detach();
  host->consumer_left(queue);
}

void Subscription::detach() {
  queue_ = nullptr;
  host_ = nullptr;
  retry_timer_.reset();
  ++epoch_;
  in_flight_ = 0;
}

void Subscription::queue_deleted(Queue&) {
  // The messages went with the queue.
  detach();
  calls_.clear();
  waiting_.clear();
}

bool Subscription::can_call() const {
  return queue_ != nullptr && !settings_.paused && in_flight_ < settings_.concurrency &&
         executor_.state() == Executor::State::kRunning &&
         functions_.newest(settings_.function) != nullptr;
}

bool Subscription::can_take() const { return can_call() && waiting_.size() < kWaitingRetryMax; }

void Subscription::take(Queue&, Entry entry) { start_call(std::move(entry)); }

void Subscription::start_call(Entry entry) {
  ++in_flight_;
  ++counters_.calls;
  ++host_->counters().delivered;
  auto call =
      std::make_shared<Call>(Call{.entry = entry,
                                  .epoch = epoch_,
                                  .host = host_,
                                  .function = functions_.newest(settings_.function),
                                  .caller = {"subscription " + settings_.name, entry.attempts + 1},
                                  .record = entry.record});
  calls_.emplace(call.get(), call);
  if (host_ == &functions_host_) {
    run(call);
  } else {
    host_->courier().send(functions_host_.courier().here(),
                          [self = shared_from_this(), call] { self->run(call); });
  }
}

// On the first shard's thread; the call's message may be read there.
void Subscription::run(const std::shared_ptr<Call>& call) {
  auto done = [self = shared_from_this(), call](CallResult result) {
    VirtualHost& here = self->functions_host_;
    if (call->host == &here) {
      self->finished(call, std::move(result));
    } else {
      here.courier().send(call->host->courier().here(),
                          [self, call, result = std::move(result)]() mutable {
                            self->finished(call, std::move(result));
                          });
    }
  };
  if (call->record->external() != nullptr) {
    functions_.call(call->function, call->record->external(), call->caller, std::move(done));
  } else {
    functions_.call(call->function, call->record->body(), call->caller, std::move(done));
  }
}

void Subscription::finished(const std::shared_ptr<Call>& call, CallResult result) {
  if (call->epoch != epoch_) return;  // the message was given back or is gone
  calls_.erase(call.get());
  --in_flight_;
  if (result.ok()) {
    succeeded(*call, result);
  } else if (result.outcome == schema::Outcome::unavailable) {
    // Nothing ran, so nothing was tried.
    wait(std::move(call->entry), kRestartMaxMs);
  } else if (result.executor_lost && !call->entry.failed_over) {
    // The function may not be to blame: once, this does not count.
    call->entry.failed_over = true;
    wait(std::move(call->entry), kRestartMinMs);
  } else {
    failed(*call, result);
  }
  if (queue_ != nullptr) {
    retry_due();
    queue_->consumer_ready(this);
  }
}

std::optional<Destination> Subscription::destination_of(const amqp::Properties& properties,
                                                        bool& reply) const {
  reply = properties.reply_to && !properties.reply_to->empty();
  if (reply) return Destination{"", *properties.reply_to};
  return settings_.result;
}

void Subscription::succeeded(Call& call, const CallResult& result) {
  auto input = amqp::Properties::of_stored(call.entry.record->properties());
  bool reply = false;
  if (auto destination = destination_of(input, reply)) {
    amqp::Properties properties;
    properties.headers = input.headers;
    // RPC clients look for the correlation id, and some for the request's message id in it.
    properties.correlation_id = input.correlation_id ? input.correlation_id : input.message_id;
    properties.delivery_mode = amqp::Properties::kPersistent;
    std::string encoded = properties.encode();
    auto sent =
        host_->publish_with_changes({destination->exchange, destination->routing_key,
                                     amqp::as_bytes(encoded), amqp::as_bytes(result.output)});
    bool arrived = sent && sent->taken_count() > 0;
    if (!arrived && !reply) {
      CallResult undelivered = result;
      undelivered.outcome = schema::Outcome::internal;
      undelivered.message = "the result could not be delivered: " +
                            (sent ? "no queue is bound for '" + destination->exchange + "/" +
                                        destination->routing_key + "'"
                                  : sent.error().text);
      failed(call, undelivered);
      return;
    }
    // Nobody waits for a reply any more: that is the caller's affair.
    if (!arrived) ++host_->counters().dropped_unroutable;
  }
  ++counters_.succeeded;
  ++host_->counters().acked;
  queue_->settle(call.entry);
}

void Subscription::failed(Call& call, const CallResult& result) {
  ++counters_.failed;
  Entry& entry = call.entry;
  ++entry.attempts;
  if (entry.attempts < settings_.attempts_max) {
    queue_->note_attempts(entry);
    ++counters_.retried;
    wait(std::move(entry), backoff_ms(entry.attempts));
    return;
  }
  if (dead_letter(entry, result)) {
    ++counters_.dead_lettered;
    queue_->settle(entry);
    return;
  }
  // Kept rather than lost, until the destination is there again.
  queue_->note_attempts(entry);
  wait(std::move(entry), std::max<uint64_t>(settings_.backoff_max_ms, kRestartMaxMs));
}

bool Subscription::dead_letter(const Entry& entry, const CallResult& result) {
  auto properties = amqp::Properties::of_stored(entry.record->properties());
  add_death(properties, queue_->name(), *entry.record, DeathReason::kRejected);
  amqp::Table& headers = *properties.headers;
  headers.set("x-sluice-subscription", settings_.name);
  headers.set("x-sluice-function", settings_.function);
  headers.set("x-sluice-outcome", std::string(schema::EnumNameOutcome(result.outcome)));
  headers.set("x-sluice-error", result.message);
  headers.set("x-sluice-attempts", static_cast<int64_t>(entry.attempts));
  std::string log = result.log;
  if (log.size() > kDeadLetterLogBytes) log.erase(0, log.size() - kDeadLetterLogBytes);
  headers.set("x-sluice-log", std::move(log));
  properties.delivery_mode = amqp::Properties::kPersistent;
  std::string encoded = properties.encode();
  const Destination& to = settings_.on_failure;
  auto sent = host_->publish_with_changes({to.exchange, to.routing_key, amqp::as_bytes(encoded),
                                           entry.record->body(), entry.record->external()});
  if (sent && sent->taken_count() > 0) {
    ++host_->counters().dead_lettered;
    return true;
  }
  spdlog::error(
      "subscription {}: a failed message can not be dead-lettered to '{}/{}' ({}); it is "
      "kept and tried again",
      settings_.name, to.exchange, to.routing_key,
      sent ? "no queue is bound there" : sent.error().text);
  return false;
}

uint64_t Subscription::backoff_ms(uint32_t attempts) const {
  uint64_t delay = settings_.backoff_min_ms;
  for (uint32_t i = 1; i < attempts && delay < settings_.backoff_max_ms; ++i) delay *= 2;
  return std::min<uint64_t>(delay, settings_.backoff_max_ms);
}

void Subscription::wait(Entry entry, uint64_t delay_ms) {
  if (settings_.paused) {
    queue_->requeue(std::move(entry), Queue::Counts::kNo);
    return;
  }
  entry.redelivered = true;
  waiting_.emplace(now_ms() + delay_ms, std::move(entry));
  retry_due();
}

void Subscription::retry_due() {
  uint64_t now = now_ms();
  while (!waiting_.empty() && waiting_.begin()->first <= now && can_call()) {
    start_call(std::move(waiting_.extract(waiting_.begin()).mapped()));
  }
  if (waiting_.empty()) {
    retry_timer_->stop();
    return;
  }
  // What is due and has no slot or executor is started by finished() and wake().
  uint64_t due = waiting_.begin()->first;
  if (due > now) retry_timer_->start(due - now);
}

}  // namespace sluice::broker
