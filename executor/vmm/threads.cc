#include "executor/vmm/threads.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::vmm {

bool Threads::has(uint32_t id) const {
  return std::ranges::any_of(all_, [id](const Thread& t) { return t.id == id; });
}

Thread& Threads::add() {
  Thread& thread = all_.emplace_back();
  thread.id = ++last_id_;
  return thread;
}

void Threads::wait(uint64_t futex_address, uint32_t futex_bits, std::optional<int64_t> wake_at_ns,
                   int64_t late_result) {
  Thread& t = current();
  t.futex_address = futex_address;
  t.futex_bits = futex_bits;
  t.wake_at_ns = wake_at_ns;
  t.late_result = late_result;
  t.in_syscall = true;
  t.result = late_result;
  t.retry = false;
}

void Threads::stop_waiting() {
  Thread& t = current();
  t.futex_address = 0;
  t.wake_at_ns.reset();
  t.in_syscall = t.retry = false;
}

int64_t Threads::wake(uint64_t futex_address, uint32_t bits, uint64_t count) {
  int64_t woken = 0;
  for (Thread& t : all_) {
    if (static_cast<uint64_t>(woken) >= count) break;
    if (t.futex_address != futex_address || (t.futex_bits & bits) == 0) continue;
    t.futex_address = 0;
    t.wake_at_ns.reset();
    t.result = 0;
    woken++;
  }
  return woken;
}

int64_t Threads::requeue(uint64_t from, uint64_t to, uint64_t count) {
  int64_t moved = 0;
  for (Thread& t : all_) {
    if (static_cast<uint64_t>(moved) >= count) break;
    if (t.futex_address != from) continue;
    t.futex_address = to;
    moved++;
  }
  return moved;
}

void Threads::remove_current() {
  CHECK(all_.size() > 1 && !current_gone_);
  all_.erase(all_.begin() + static_cast<ptrdiff_t>(current_));
  // So that the one behind it is the first to be asked.
  current_ = current_ == 0 ? all_.size() - 1 : current_ - 1;
  current_gone_ = true;
}

bool Threads::pick(int64_t now_ns) {
  for (size_t i = 1; i <= all_.size(); i++) {
    size_t at = (current_ + i) % all_.size();
    Thread& t = all_[at];
    if (t.wake_at_ns && *t.wake_at_ns <= now_ns) {
      t.result = t.late_result;
      t.retry = false;
      t.wake_at_ns.reset();
      t.futex_address = 0;
    }
    if (t.futex_address != 0 || t.wake_at_ns) continue;
    current_ = at;
    current_gone_ = false;
    return true;
  }
  return false;
}

bool Threads::others_wait_for_turn() const {
  for (size_t i = 0; i < all_.size(); i++) {
    if (i != current_ && (all_[i].futex_address == 0 || all_[i].wake_at_ns)) return true;
  }
  return false;
}

std::optional<int64_t> Threads::earliest_wake_ns() const {
  std::optional<int64_t> earliest;
  for (const Thread& t : all_) {
    if (t.wake_at_ns && (!earliest || *t.wake_at_ns < *earliest)) earliest = t.wake_at_ns;
  }
  return earliest;
}

}  // namespace sluice::vmm
