// Threads and what they wait on. All of a program's threads take turns on one vCPU, so nothing here
// races with the program.

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <linux/futex.h>
#include <sched.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
constexpr uint64_t kThreadOptions = CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                                    CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_DETACHED;
constexpr uint32_t kAllBits = 0xffffffff;

}  // namespace

int64_t Kernel::sys_clone(const Syscall& c) {
  uint64_t flags = c.args[0];
  if ((flags & kThreadFlags) != kThreadFlags) {
    ending_ =
        end_by(Outcome::kForbiddenSyscall, 0,
               "the program made the system call clone (56) to start a process; functions may "
               "threads only");
    return 0;
  }
  if ((flags & ~(kThreadFlags | kThreadOptions)) != 0) return -EINVAL;
  if (flags & CLONE_SETTLS && c.args[4] >= (1ull << 47)) return -EPERM;
  if (state_.threads->count() >= limits_.threads) {
    return refuse(-EAGAIN, "threads", limits_.threads);
  }
  Thread& thread = state_.threads.edit().add();
  if (flags & CLONE_CHILD_CLEARTID) thread.clear_id_address = c.args[3];
  uint32_t id = thread.id;
  if (flags & CLONE_PARENT_SETTID) space_.put(c.args[2], id);
  if (flags & CLONE_CHILD_SETTID) space_.put(c.args[3], id);
  new_thread_ = {.id = id, .stack = c.args[1], .fs_base = std::nullopt};
  if (flags & CLONE_SETTLS) new_thread_->fs_base = c.args[4];
  return id;
}

// exit(2) ends the thread that calls it; the last one's end is the program's.
int64_t Kernel::sys_exit_thread(const Syscall& c) {
  if (state_.threads->count() == 1) return sys_exit(c);
  Threads& threads = state_.threads.edit();
  if (uint64_t address = threads.current().clear_id_address; address != 0) {
    if (space_.put(address, uint32_t{0})) threads.wake(address, kAllBits, 1);
  }
  threads.remove_current();
  waits_ = true;
  return 0;
}

int64_t Kernel::sys_gettid(const Syscall&) { return state_.threads->current().id; }

int64_t Kernel::sys_set_tid_address(const Syscall& c) {
  state_.threads.edit().current().clear_id_address = c.args[0];
  return state_.threads->current().id;
}

int64_t Kernel::sys_sched_yield(const Syscall&) {
  if (state_.threads->count() == 1) return 0;
  state_.threads.edit().wait(0, 0, std::nullopt, 0);
  waits_ = true;
  return 0;
}

int64_t Kernel::futex_wait(const Syscall& c, uint64_t operation) {
  uint32_t bits = operation == FUTEX_WAIT_BITSET ? static_cast<uint32_t>(c.args[5]) : kAllBits;
  if (bits == 0 || c.args[0] % sizeof(uint32_t) != 0) return -EINVAL;
  auto value = space_.get<uint32_t>(c.args[0]);
  if (!value) return -EFAULT;
  if (*value != static_cast<uint32_t>(c.args[2])) return -EAGAIN;
  std::optional<int64_t> until;
  if (c.args[3] != 0) {
    int64_t at_ns;
    bool realtime = (c.args[1] & FUTEX_CLOCK_REALTIME) != 0;
    if (int64_t error = get_wake_time(c.args[3], realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC,
                                      operation == FUTEX_WAIT_BITSET, at_ns);
        error < 0) {
      return error;
    }
    until = at_ns;
  }
  state_.threads.edit().wait(c.args[0], bits, until, -ETIMEDOUT);
  waits_ = true;
  return 0;
}

int64_t Kernel::sys_futex(const Syscall& c) {
  uint64_t operation =
      c.args[1] & ~static_cast<uint64_t>(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
  bool alone = state_.threads->count() == 1;
  // A negative count wakes one, as on Linux.
  uint64_t count = std::max<int64_t>(static_cast<int32_t>(c.args[2]), 1);
  switch (operation) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
      return futex_wait(c, operation);
    case FUTEX_WAKE:
      return alone ? 0 : state_.threads.edit().wake(c.args[0], kAllBits, count);
    case FUTEX_WAKE_BITSET:
      if (static_cast<uint32_t>(c.args[5]) == 0) return -EINVAL;
      return alone ? 0
                   : state_.threads.edit().wake(c.args[0], static_cast<uint32_t>(c.args[5]), count);
    case FUTEX_CMP_REQUEUE: {
      auto value = space_.get<uint32_t>(c.args[0]);
      if (!value) return -EFAULT;
      if (*value != static_cast<uint32_t>(c.args[5])) return -EAGAIN;
      [[fallthrough]];
    }
    case FUTEX_REQUEUE: {
      if (alone || c.args[4] == 0) return 0;
      Threads& threads = state_.threads.edit();
      int64_t woken = threads.wake(c.args[0], kAllBits, count);
      return woken + threads.requeue(c.args[0], c.args[4], static_cast<uint32_t>(c.args[3]));
    }
    default:
      return -ENOSYS;  // priority inheritance, and two operations at once
  }
}

}  // namespace sluice::vmm
