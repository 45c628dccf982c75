// What is done as time passes: targets, growth ahead of demand, shrinking, statistics.

#include <algorithm>
#include <chrono>

#include "executor/pool/limits.h"
#include "executor/pool/pools.h"

namespace sluice::executor {

void Pools::pace() {
  Lock lock(mutex_);
  while (!stopping_) {
    int64_t after_ms = tick_after_ms();
    auto something_to_do = [this] { return stopping_ || (pacer_parked_ && changed_); };
    pacer_parked_ = after_ms == 0;
    if (pacer_parked_) {
      pacer_wake_.wait(lock, something_to_do);
      pacer_parked_ = false;
      continue;
    }
    if (pacer_wake_.wait_for(lock, std::chrono::milliseconds(after_ms), something_to_do)) continue;
    tick(lock);
  }
}

// 0: when something changes.
int64_t Pools::tick_after_ms() const {
  if (calls_came_ || queue_.size() > 0 || !growers_.empty()) return kTickMs;
  return changed_ || seats_ > 0 ? kSlowTickMs : 0;
}

void Pools::note_change() {
  changed_ = true;
  if (pacer_parked_) pacer_wake_.notify_one();
}

void Pools::tick() {
  Lock lock(mutex_);
  tick(lock);
}

void Pools::tick(Lock& lock) {
  int64_t now_ns = clock_.now_ns();
  calls_came_ = false;
  for (Function& f : functions_) {
    if (f.draining || (!f.active() && f.target == 0)) continue;
    f.demand.update(now_ns);
    bool wanted = now_ns - f.last_call_ns < kIdleSeconds * 1'000'000'000;
    f.target = wanted ? std::max<size_t>(f.demand.target(f.lane.share(), f.lane.limit()), 1) : 0;
    shrink(f, now_ns);
    grow(f);
    grow_ahead(f, now_ns);
  }
  keep_to_budget(false);
  grow_others(growers_.size());
  work_unlocked(lock);
  send_stats(lock, now_ns);
}

void Pools::send_stats(Lock& lock, int64_t now_ns) {
  if (!changed_ || now_ns - stats_sent_ns_ < kStatsMs * 1'000'000) return;
  changed_ = false;
  stats_sent_ns_ = now_ns;
  if (!options_.stats) return;
  PoolStats all = stats_locked();
  lock.unlock();
  options_.stats(all);
  lock.lock();
}

}  // namespace sluice::executor
