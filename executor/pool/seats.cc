// A sandbox's thread: it makes it, serves calls with it, and destroys it.

#include <chrono>
#include <utility>

#include "base/check.h"
#include "executor/pool/limits.h"
#include "executor/pool/pools.h"
#include "executor/pool/thread.h"

namespace sluice::executor {
namespace {

Outcome outcome_of(const Error& error) {
  return error.code == Code::kUnavailable ? Outcome::kUnavailable : Outcome::kInternal;
}

}  // namespace

void Seat::release() { pools.release(*this); }
void Seat::acquire(int64_t deadline_ns) { pools.acquire(*this, deadline_ns); }

// Does what was decided on and takes too long to do it under the lock: starts threads, frees
// snapshots. Unlocks meanwhile: the last thing that its caller does.
void Pools::work_unlocked(Lock& lock) {
  while (!to_start_.empty() || !to_free_.empty()) {
    auto seats = std::exchange(to_start_, {});
    auto images = std::exchange(to_free_, {});
    lock.unlock();
    images.clear();
    for (auto& seat : seats) {
      Seat* raw = seat.release();
      auto started =
          start_thread(kSandboxStackBytes, [this, raw] { serve(std::unique_ptr<Seat>(raw)); });
      if (started) continue;  // joined by the thread that ends next, or by ~Pools
      std::unique_ptr<Seat> mine(raw);
      Lock relock(mutex_);
      not_made(relock, *mine, started.error());
      seats_--;
      tell_if_quiet();
    }
    lock.lock();
  }
}

void Pools::serve(std::unique_ptr<Seat> seat) {
  int64_t start_ns = clock_.now_ns();
  auto sandbox = seat->function.image->clone();
  int64_t took_ns = clock_.now_ns() - start_ns;
  uint64_t bytes = 0;
  if (sandbox) {
    (*sandbox)->use_slot(seat.get());
    bytes = (*sandbox)->memory_bytes();
  }
  Lock lock(mutex_);
  if (sandbox) {
    made(*seat, bytes, took_ns);
    work_unlocked(lock);
    serve_calls(lock, *seat, **sandbox);
    lock.unlock();
    sandbox->reset();
    lock.lock();
    left(*seat);
  } else {
    not_made(lock, *seat, sandbox.error());
  }
  work_unlocked(lock);
  seats_--;
  auto before = std::exchange(ended_thread_, pthread_self());
  tell_if_quiet();
  lock.unlock();
  if (before) pthread_join(*before, nullptr);
}

void Pools::serve_calls(Lock& lock, Seat& seat, Sandbox& sandbox) {
  for (;;) {
    seat.wake.wait(lock, [&] { return seat.called || seat.leave; });
    if (!seat.called) return;
    lock.unlock();
    int64_t start_ns = clock_.now_ns();
    seat.asleep_ns = 0;
    CallResult result = sandbox.call(seat.waiting.call.input);
    bool ready = sandbox.ready();
    uint64_t bytes = sandbox.memory_bytes();
    options_.answer(seat.waiting.call.id, result);
    seat.waiting.call = {};  // its frame
    int64_t end_ns = clock_.now_ns();
    lock.lock();
    seat.since_ns = end_ns;
    ended(seat, result, ready, bytes, end_ns - start_ns);
    work_unlocked(lock);
  }
}

void Pools::made(Seat& seat, uint64_t bytes, int64_t took_ns) {
  Function& f = seat.function;
  f.making--;
  making_--;
  f.counts.clones++;
  f.counts.clone_us += static_cast<uint64_t>(took_ns / 1000);
  account(f, seat, bytes);
  seat.since_ns = clock_.now_ns();
  note_change();
  if (f.draining && f.lane.waiting() == 0) {
    f.leaving++;
    leaving_++;
    leaving_bytes_ += seat.bytes;
    seat.leave = true;
  } else {
    f.idle.push_back(&seat);
    idle_++;
    queue_.add_seat(f.lane);
    schedule();
  }
  keep_to_budget(false);
  grow(f);
  grow_others(1);
  tell_if_quiet();
}

void Pools::not_made(Lock& lock, Seat& seat, const Error& error) {
  Function& f = seat.function;
  f.making--;
  making_--;
  account(f, seat, 0);
  f.make_after_ns = clock_.now_ns() + kRetryMakingMs * 1'000'000;
  note_change();
  // Where there are others, the calls wait for them. Where there are none, each call has one try.
  std::optional<uint64_t> call;
  if (f.size() == 0) {
    if (auto waiting = queue_.withdraw(f.lane)) {
      call = waiting->call.id;
      queued_bytes_ -= waiting->call.frame.size();
      f.counts.calls++;
      if (waiting_for_room_ > 0) room_.notify_all();
    }
  }
  grow(f);
  grow_others(1);
  free_if_drained(f);
  tell_if_quiet();
  if (!call) return;
  lock.unlock();
  answer(*call, outcome_of(error), error.message);
  lock.lock();
}

void Pools::ended(Seat& seat, const CallResult& result, bool ready, uint64_t bytes,
                  int64_t service_ns) {
  Function& f = seat.function;
  FunctionStats& c = f.counts;
  c.calls++;
  c.run_us += result.run_us;
  c.exits += result.exits;
  c.dirty_pages += result.dirty_pages;
  c.warm_hits += seat.waiting.warm;
  c.cold_starts += seat.cold;
  ++(ready ? c.resets : c.discarded);
  f.demand.ended(service_ns, seat.asleep_ns);
  note_change();
  seat.called = false;
  f.busy--;
  busy_--;
  if (bytes != seat.bytes) account(f, seat, bytes);
  queue_.done(f.lane);
  bool drained = f.draining && f.lane.waiting() == 0;
  if (ready && !drained) {
    f.idle.push_back(&seat);
    idle_++;
    queue_.add_seat(f.lane);
  } else {
    f.leaving++;
    leaving_++;
    leaving_bytes_ += seat.bytes;
    seat.leave = true;
    if (drained) evict_all(f);
  }
  // Before its next call: else a function whose calls never stop would give nothing back. That is a
  // look at all functions, so not at the end of every call.
  bool short_of_memory =
      !growers_.empty() || bytes_ - leaving_bytes_ > options_.memory_budget_bytes;
  if (short_of_memory && seat.since_ns >= give_back_at_ns_) {
    give_back_at_ns_ = seat.since_ns + kGiveBackUs * 1000;
    keep_to_budget(true);
    grow_others(kGiveBackTo);
  }
  schedule();
  keep_to_budget(false);
  if (!ready) {
    grow(f);
    grow_ahead(f, seat.since_ns);
  }
  tell_if_quiet();
}

void Pools::left(Seat& seat) {
  Function& f = seat.function;
  f.leaving--;
  leaving_--;
  leaving_bytes_ -= seat.bytes;
  account(f, seat, 0);
  note_change();
  grow_others(growers_.size());
  grow(f);
  free_if_drained(f);
  tell_if_quiet();
}

void Pools::release(Seat& seat) {
  seat.slept_at_ns = clock_.now_ns();
  Lock lock(mutex_);
  queue_.sleep(seat.function.lane);
  schedule();
  grow(seat.function);
  work_unlocked(lock);
}

void Pools::acquire(Seat& seat, int64_t deadline_ns) {
  seat.asleep_ns += clock_.now_ns() - seat.slept_at_ns;
  std::chrono::steady_clock::time_point deadline{std::chrono::nanoseconds(deadline_ns)};
  CallQueue::Lane& lane = seat.function.lane;
  Lock lock(mutex_);
  seat.goes_on = false;
  queue_.wake(lane, &seat);
  schedule();
  if (!seat.wake.wait_until(lock, deadline, [&] { return seat.goes_on; })) {
    queue_.force(lane, &seat);
  }
}

}  // namespace sluice::executor
