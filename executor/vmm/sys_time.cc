// Clocks are the host's; what sleeps ends at the call's deadline at the latest.

#include <algorithm>
#include <cerrno>
#include <ctime>

#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

// The host's own CPU clocks are none of a program's business: it sees wall time for them.
clockid_t visible_clock(uint64_t id) {
  switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
      return static_cast<clockid_t>(id);
    case CLOCK_PROCESS_CPUTIME_ID:
    case CLOCK_THREAD_CPUTIME_ID:
      return CLOCK_MONOTONIC;
    default:
      return -1;
  }
}

}  // namespace

int64_t Kernel::sys_clock_gettime(const Syscall& c) {
  clockid_t clock = visible_clock(c.args[0]);
  if (clock < 0) return -EINVAL;
  timespec t;
  clock_gettime(clock, &t);
  return space_.put(c.args[1], t) ? 0 : -EFAULT;
}

int64_t Kernel::sys_clock_getres(const Syscall& c) {
  clockid_t clock = visible_clock(c.args[0]);
  if (clock < 0) return -EINVAL;
  timespec t;
  clock_getres(clock, &t);
  return c.args[1] == 0 || space_.put(c.args[1], t) ? 0 : -EFAULT;
}

int64_t Kernel::sys_gettimeofday(const Syscall& c) {
  timeval t;
  gettimeofday(&t, nullptr);
  if (c.args[0] != 0 && !space_.put(c.args[0], t)) return -EFAULT;
  if (c.args[1] != 0 && !space_.put(c.args[1], uint64_t{0})) return -EFAULT;  // the zone: UTC
  return 0;
}

int64_t Kernel::sys_time(const Syscall& c) {
  int64_t now = ::time(nullptr);
  if (c.args[0] != 0 && !space_.put(c.args[0], now)) return -EFAULT;
  return now;
}

int64_t Kernel::sys_times(const Syscall& c) {
  if (c.args[0] != 0 && !space_.put(c.args[0], tms{})) return -EFAULT;
  return now_ns() / 10'000'000;
}

int64_t Kernel::sys_getrusage(const Syscall& c) {
  return space_.put(c.args[1], rusage{}) ? 0 : -EFAULT;
}

int64_t Kernel::wait_until(int64_t at_ns, int64_t late_result) {
  state_.threads.edit().wait(0, 0, at_ns, late_result);
  waits_ = true;
  return 0;
}

int64_t Kernel::get_wake_time(uint64_t address, int clock, bool absolute, int64_t& at_ns) const {
  auto t = space_.get<timespec>(address);
  if (!t) return -EFAULT;
  if (t->tv_sec < 0 || t->tv_nsec < 0 || t->tv_nsec >= 1'000'000'000) return -EINVAL;
  constexpr int64_t kFarSeconds = 100ll * 365 * 24 * 3600;
  int64_t ns = std::min<int64_t>(t->tv_sec, kFarSeconds) * 1'000'000'000 + t->tv_nsec;
  if (absolute) {
    timespec now;
    clock_gettime(clock, &now);
    ns -= now.tv_sec * 1'000'000'000ll + now.tv_nsec;
  }
  at_ns = now_ns() + std::max<int64_t>(ns, 0);
  return 0;
}

int64_t Kernel::sleep_for(uint64_t request, int clock, bool absolute) {
  int64_t at_ns;
  if (int64_t error = get_wake_time(request, clock, absolute, at_ns); error < 0) return error;
  return wait_until(at_ns, 0);
}

int64_t Kernel::sys_nanosleep(const Syscall& c) {
  return sleep_for(c.args[0], CLOCK_MONOTONIC, false);
}

int64_t Kernel::sys_clock_nanosleep(const Syscall& c) {
  clockid_t clock = visible_clock(c.args[0]);
  if (clock < 0) return -EINVAL;
  return sleep_for(c.args[2], clock, (c.args[1] & TIMER_ABSTIME) != 0);
}

}  // namespace sluice::vmm
