#include "executor/pool/pools.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "executor/pool/limits.h"
#include "executor/pool/memory.h"

namespace sluice::executor {

Pools::Pools(Options options)
    : options_(std::move(options)),
      clock_(options_.clock != nullptr ? *options_.clock : steady_clock_),
      queue_(options_.slots) {
  CHECK(options_.answer && options_.share > 0 && options_.making_max > 0);
  if (options_.memory_budget_bytes == 0) options_.memory_budget_bytes = default_memory_budget();
  if (options_.paced) pacer_ = std::jthread([this] { pace(); });
}

Pools::~Pools() {
  {
    Lock lock(mutex_);
    while (!by_number_.empty()) unload(*by_number_.begin()->second);
    waiting_for_quiet_++;
    quiet_.wait(lock, [this] { return quiet() && seats_ == 0; });
    CHECK(functions_.empty());
    stopping_ = true;
    pacer_wake_.notify_all();
  }
  if (pacer_.joinable()) pacer_.join();
  if (ended_thread_) pthread_join(*ended_thread_, nullptr);
}

Function* Pools::add(uint64_t number, std::string owner, size_t concurrency) {
  size_t limit =
      concurrency == 0 ? kSandboxesPerFunctionMax : std::min(concurrency, kSandboxesPerFunctionMax);
  Lock lock(mutex_);
  if (auto old = by_number_.find(number); old != by_number_.end()) unload(*old->second);
  Function& f = functions_.emplace_back(number, std::move(owner), std::min(options_.share, limit),
                                        limit, clock_.now_ns());
  f.self = std::prev(functions_.end());
  f.counts.function = number;
  by_number_[number] = &f;
  return &f;
}

void Pools::loaded(Function* function, std::shared_ptr<const Image> image) {
  Lock lock(mutex_);
  Function& f = *function;
  CHECK(f.state == Function::State::kLoading);
  f.state = Function::State::kReady;
  f.image = std::move(image);
  f.bytes += f.image->memory_bytes();
  bytes_ += f.image->memory_bytes();
  note_change();
  keep_to_budget(false);
  grow(f);
  free_if_drained(f);
  work_unlocked(lock);
}

void Pools::failed(Function* function, Outcome outcome, std::string message) {
  std::vector<uint64_t> calls;
  Ending failure{outcome, 0, std::move(message)};
  {
    Lock lock(mutex_);
    Function& f = *function;
    CHECK(f.state == Function::State::kLoading);
    f.state = Function::State::kFailed;
    f.failure = failure;
    while (auto waiting = queue_.withdraw(f.lane)) {
      queued_bytes_ -= waiting->call.frame.size();
      calls.push_back(waiting->call.id);
      f.counts.calls++;
    }
    note_change();
    if (waiting_for_room_ > 0) room_.notify_all();
    tell_if_quiet();
    free_if_drained(f);
  }
  for (uint64_t call : calls) answer(call, failure.outcome, failure.message);
}

void Pools::unload(uint64_t number) {
  Lock lock(mutex_);
  auto found = by_number_.find(number);
  if (found == by_number_.end()) return;
  unload(*found->second);
  grow_others(growers_.size());
  work_unlocked(lock);
}

void Pools::unload(Function& f) {
  by_number_.erase(f.number);
  f.draining = true;
  f.target = 0;
  note_change();
  if (f.lane.waiting() == 0) evict_all(f);
  free_if_drained(f);
}

void Pools::free_if_drained(Function& f) {
  if (!f.draining || f.state == Function::State::kLoading || f.active()) return;
  if (f.wants_room) growers_.remove(&f);
  bytes_ -= f.bytes;
  if (f.image) to_free_.push_back(std::move(f.image));
  functions_.erase(f.self);
}

void Pools::invoke(uint64_t number, Call call) {
  Lock lock(mutex_);
  waiting_for_room_++;
  room_.wait(lock, [this] {
    return queue_.size() < options_.queued_calls_max && queued_bytes_ < options_.queued_bytes_max;
  });
  waiting_for_room_--;
  auto found = by_number_.find(number);
  if (found == by_number_.end()) {
    lock.unlock();
    return answer(call.id, Outcome::kInternal,
                  "function " + std::to_string(number) + " is not loaded in this executor");
  }
  Function& f = *found->second;
  if (f.state == Function::State::kFailed) {
    Ending failure = f.failure;
    f.counts.calls++;
    lock.unlock();
    return answer(call.id, failure.outcome, std::move(failure.message));
  }
  f.demand.arrived();
  f.last_call_ns = clock_.now_ns();
  f.target = std::max<size_t>(f.target, 1);
  queued_bytes_ += call.frame.size();
  bool warm = f.idle.size() > f.lane.waiting();
  queue_.push(f.lane, {std::move(call), warm});
  note_change();
  calls_came_ = true;
  schedule();
  grow(f);
  work_unlocked(lock);
}

void Pools::answer(uint64_t call, Outcome outcome, std::string message) {
  CallResult result;
  result.ending = {outcome, 0, std::move(message)};
  options_.answer(call, result);
}

// Hands out what may run now. To be called whenever that may have changed.
void Pools::schedule() {
  while (auto grant = queue_.pop()) {
    if (grant->sleeper) {
      (*grant->sleeper)->goes_on = true;
      (*grant->sleeper)->wake.notify_one();
      continue;
    }
    queued_bytes_ -= grant->job->call.frame.size();
    if (waiting_for_room_ > 0) room_.notify_all();
    Function& f = *grant->lane->owner();
    Seat* seat = f.idle.back();
    f.idle.pop_back();
    idle_--;
    f.busy++;
    busy_++;
    seat->waiting = std::move(*grant->job);
    seat->cold = seat->fresh && !seat->waiting.warm;
    seat->fresh = false;
    seat->called = true;
    seat->wake.notify_one();
  }
}

bool Pools::quiet() const {
  return queue_.size() == 0 && making_ == 0 && busy_ == 0 && leaving_ == 0;
}

void Pools::tell_if_quiet() {
  if (waiting_for_quiet_ > 0 && quiet()) quiet_.notify_all();
}

void Pools::wait_idle() {
  Lock lock(mutex_);
  waiting_for_quiet_++;
  quiet_.wait(lock, [this] { return quiet(); });
  waiting_for_quiet_--;
}

PoolStats Pools::stats() {
  Lock lock(mutex_);
  return stats_locked();
}

PoolStats Pools::stats_locked() const {
  PoolStats all;
  all.memory_bytes = bytes_;
  all.memory_budget_bytes = options_.memory_budget_bytes;
  all.functions.reserve(by_number_.size());
  for (const Function& f : functions_) {
    if (f.draining) continue;
    FunctionStats& s = all.functions.emplace_back(f.counts);
    s.sandboxes = static_cast<uint32_t>(f.idle.size() + f.busy);
    s.running = static_cast<uint32_t>(f.busy);
    s.queued = static_cast<uint32_t>(f.lane.waiting());
    s.target = static_cast<uint32_t>(f.target);
    s.memory_bytes = f.sandbox_bytes;
  }
  return all;
}

}  // namespace sluice::executor
