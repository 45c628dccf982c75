#include "broker/dispatch/subscription.h"

#include <algorithm>

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/dispatch/limits.h"
#include "broker/dispatch/subscription_call.h"

namespace sluice::broker {

using namespace dispatch;

namespace {

// At least what the message takes in an invocation.
uint64_t size_bound(const Entry& entry) {
  return protocol::record_size_bound(entry.record->body_bytes(), entry.record->properties().size());
}

protocol::Record record_of(const Entry& entry) {
  return {.id = entry.sequence,
          .published_at_ms = entry.record->published_at_ms(),
          .attempt = entry.attempts + 1,
          .redelivered = entry.redelivered,
          .body = entry.record->body(),
          .exchange = entry.record->exchange(),
          .routing_key = entry.record->routing_key(),
          .properties = entry.record->properties()};
}

}  // namespace

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
  window_timer_.emplace(host_->journal().loop(), [this] {
    gathered_ = true;
    start_gathered();
  });
  ++epoch_;
  queue_->add_consumer(this, false);
}

void Subscription::change(SubscriptionSettings settings) {
  CHECK(settings.name == settings_.name && settings.queue == settings_.queue);
  bool pausing = settings.paused && !settings_.paused;
  settings_ = std::move(settings);
  if (pausing && queue_ != nullptr) give_back();
  if (queue_ != nullptr) give_back_gathered();
  wake();
}

void Subscription::wake() {
  if (queue_ == nullptr) return;
  retry_due();
  start_gathered();
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

// Nobody has seen them.
void Subscription::give_back_gathered() {
  window_timer_->stop();
  gathered_ = false;
  gathering_bytes_ = 0;
  for (Entry& entry : std::exchange(gathering_, {})) queue_->give_back(std::move(entry));
}

void Subscription::close() {
  if (queue_ == nullptr) return;
  auto queue = queue_;
  queue->remove_consumer(this);
  give_back_gathered();
  give_back();
  auto calls = std::exchange(calls_, {});
  std::vector<Entry> entries;
  for (auto& [key, call] : calls) {
    entries.insert(entries.end(), call->entries.begin(), call->entries.end());
  }
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
  window_timer_.reset();
  ++epoch_;
  in_flight_ = 0;
  in_flight_bytes_ = 0;
}

void Subscription::queue_deleted(Queue&) {
  // The messages went with the queue.
  detach();
  calls_.clear();
  waiting_.clear();
  gathering_.clear();
  gathering_bytes_ = 0;
  gathered_ = false;
}

// Whether it hands out messages at all.
bool Subscription::serves() const {
  return queue_ != nullptr && !settings_.paused && executor_.state() == Executor::State::kRunning &&
         functions_.newest(settings_.function) != nullptr;
}

bool Subscription::can_call() const { return in_flight_ < settings_.concurrency && serves(); }

bool Subscription::can_take() const {
  if (waiting_.size() >= kWaitingRetryMax) return false;
  if (!gathering_.empty()) {
    return !gathered_ && gathering_.size() < settings_.batch_size && serves();
  }
  return can_call() && (in_flight_ == 0 || in_flight_bytes_ < kBatchesMaxBytes);
}

// A plain program takes one message a call, whatever the settings were made for.
uint32_t Subscription::batch_max() const {
  if (settings_.batch_size == 1) return 1;
  auto function = functions_.newest(settings_.function);
  return function != nullptr && function->speaks_protocol() ? settings_.batch_size : 1;
}

void Subscription::take(Queue&, Entry entry) {
  uint32_t most = batch_max();
  if (most == 1 && gathering_.empty()) {
    std::vector<Entry> one;
    one.push_back(std::move(entry));
    start_call(std::move(one));
  } else if (entry.attempts > 0) {
    // What failed once is tried alone, so that it fails no others.
    waiting_.emplace(now_ms(), std::move(entry));
    retry_due();
  } else {
    gather(std::move(entry));
    if (gathering_.size() >= most) {
      gathered_ = true;
      start_gathered();
    }
  }
}

void Subscription::gather(Entry entry) {
  uint64_t bytes = size_bound(entry);
  if (!gathering_.empty() &&
      gathering_bytes_ + bytes > kInvocationMaxBytes - protocol::kInvocationOverheadBytes) {
    gathered_ = true;
    start_gathered();
    if (!gathering_.empty()) {  // no slot for it yet, so none for another
      waiting_.emplace(now_ms(), std::move(entry));
      return;
    }
  }
  // Without a window: at the end of this turn, with what else comes in it.
  if (gathering_.empty()) window_timer_->start(settings_.batch_window_ms);
  gathering_bytes_ += bytes;
  gathering_.push_back(std::move(entry));
}

void Subscription::start_gathered() {
  if (!gathered_ || gathering_.empty() || !can_call()) return;
  window_timer_->stop();
  gathered_ = false;
  gathering_bytes_ = 0;
  auto entries = std::exchange(gathering_, {});
  if (batch_max() == 1 && entries.size() > 1) {
    // A plain program has become the function meanwhile.
    for (Entry& entry : entries) waiting_.emplace(now_ms(), std::move(entry));
    retry_due();
    return;
  }
  start_call(std::move(entries));
}

void Subscription::start_call(std::vector<Entry> entries) {
  ++in_flight_;
  ++counters_.calls;
  counters_.records += entries.size();
  host_->counters().delivered += entries.size();
  uint64_t bytes = 0;
  for (const Entry& entry : entries) bytes += entry.record->body().size();
  in_flight_bytes_ += bytes;
  uint32_t attempt = entries.front().attempts + 1;
  auto call = std::make_shared<Call>(Call{.entries = std::move(entries),
                                          .bytes = bytes,
                                          .epoch = epoch_,
                                          .host = host_,
                                          .function = functions_.newest(settings_.function),
                                          .caller = {"subscription " + settings_.name, attempt}});
  calls_.emplace(call.get(), call);
  if (host_ == &functions_host_) {
    run(call);
  } else {
    host_->courier().send(functions_host_.courier().here(),
                          [self = shared_from_this(), call] { self->run(call); });
  }
}

// On the first shard's thread; the call's messages may be read there.
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
  CallInput input;
  input.records.reserve(call->entries.size());
  for (const Entry& entry : call->entries) {
    input.records.push_back(record_of(entry));
    if (entry.record->external() == nullptr) continue;
    input.bodies.resize(call->entries.size());
    input.bodies[input.records.size() - 1] = entry.record->external();
  }
  functions_.call(call->function, std::move(input), call->caller, std::move(done));
}

void Subscription::finished(const std::shared_ptr<Call>& call, CallResult result) {
  if (call->epoch != epoch_) return;  // the messages were given back or are gone
  calls_.erase(call.get());
  --in_flight_;
  in_flight_bytes_ -= call->bytes;
  settle(*call, result);
  if (queue_ != nullptr) {
    retry_due();
    start_gathered();
    queue_->consumer_ready(this);
  }
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
    std::vector<Entry> one;
    one.push_back(std::move(waiting_.extract(waiting_.begin()).mapped()));
    start_call(std::move(one));
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
