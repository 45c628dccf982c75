// The program as a process: identity, signals, limits, its end.

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <asm/prctl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/random.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kPid = 1;
constexpr uint64_t kIgnore = 1;  // SIG_IGN
constexpr uint64_t kSignalsMax = 64;
constexpr uint64_t kSignalSetBytes = 8;

std::string signal_name(uint64_t signal) {
  const char* name = sigabbrev_np(static_cast<int>(signal));
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

bool ignored_by_default(uint64_t signal) {
  return signal == SIGCHLD || signal == SIGCONT || signal == SIGURG || signal == SIGWINCH;
}

struct Stack {
  uint64_t address;
  uint32_t flags;
  uint32_t padding;
  uint64_t bytes;
};

}  // namespace

void Kernel::end_process(int status) {
  if (status == 0 && io_.input && io_.source == InputSource::kInvocation) {
    end_by_bad_answer("it ended without an answer");
    return;
  }
  ending_ = status == 0 ? Ending{}
                        : end_by(Outcome::kExitStatus, status,
                                 fmt::format("the program ended with exit status {}", status));
}

int64_t Kernel::sys_exit(const Syscall& c) {
  end_process(static_cast<int>(c.args[0] & 0xff));
  return 0;
}

int64_t Kernel::raise(uint64_t signal) {
  if (signal > kSignalsMax) return -EINVAL;
  if (signal == 0) return 0;
  const Signals::Action& action = state_.signals->actions[signal];
  if (action.handler == kIgnore || (action.handler == 0 && ignored_by_default(signal))) return 0;
  // Go preempts its threads by it, and does without where it does not come.
  if (signal == SIGURG) return 0;
  ending_ = end_by(Outcome::kSignal, 0,
                   fmt::format("the program ended itself by {}", signal_name(signal)));
  return 0;
}

int64_t Kernel::sys_kill(const Syscall& c) {
  auto pid = static_cast<int32_t>(c.args[0]);
  if (pid != static_cast<int32_t>(kPid) && pid != 0 && pid != -1) return -ESRCH;
  return raise(c.args[1]);
}

int64_t Kernel::sys_tkill(const Syscall& c) {
  return sys_tgkill({c.number, {kPid, c.args[0], c.args[1]}});
}

int64_t Kernel::sys_tgkill(const Syscall& c) {
  if (c.args[0] != kPid || !state_.threads->has(static_cast<uint32_t>(c.args[1]))) return -ESRCH;
  return raise(c.args[2]);
}

int64_t Kernel::sys_arch_prctl(const Syscall& c) {
  switch (c.args[0]) {
    case ARCH_SET_FS:
    case ARCH_SET_GS: {
      if (c.args[1] >= (1ull << 47)) return -EPERM;
      bool fs = c.args[0] == ARCH_SET_FS;
      (fs ? fs_base_ : gs_base_) = c.args[1];
      (fs ? fs_now_ : gs_now_) = c.args[1];
      return 0;
    }
    case ARCH_GET_FS:
    case ARCH_GET_GS:
      return space_.put(c.args[1], c.args[0] == ARCH_GET_FS ? fs_now_ : gs_now_) ? 0 : -EFAULT;
    default:
      return -EINVAL;
  }
}

int64_t Kernel::sys_prctl(const Syscall& c) {
  switch (c.args[0]) {
    case PR_SET_NAME: {
      auto name = space_.get_string(c.args[1], state_.thread_name.size() - 1);
      if (!name) return -EFAULT;
      state_.thread_name.fill(0);
      std::copy_n(name->begin(), std::min(name->size(), state_.thread_name.size() - 1),
                  state_.thread_name.begin());
      return 0;
    }
    case PR_GET_NAME:
      return space_.put(c.args[1], state_.thread_name) ? 0 : -EFAULT;
    case PR_SET_VMA:
    case PR_SET_DUMPABLE:
    case PR_SET_PDEATHSIG:
      return 0;
    default:
      return -EINVAL;
  }
}

int64_t Kernel::sys_rt_sigaction(const Syscall& c) {
  uint64_t signal = c.args[0];
  if (signal == 0 || signal > kSignalsMax || c.args[3] != kSignalSetBytes) return -EINVAL;
  if (c.args[1] != 0 && (signal == SIGKILL || signal == SIGSTOP)) return -EINVAL;
  Signals::Action action;
  if (c.args[1] != 0) {
    auto wanted = space_.get<Signals::Action>(c.args[1]);
    if (!wanted) return -EFAULT;
    action = *wanted;
  }
  if (c.args[2] != 0 && !space_.put(c.args[2], state_.signals->actions[signal])) return -EFAULT;
  if (c.args[1] != 0) state_.signals.edit().actions[signal] = action;
  return 0;
}

int64_t Kernel::sys_rt_sigprocmask(const Syscall& c) {
  if (c.args[3] != kSignalSetBytes) return -EINVAL;
  uint64_t before = state_.threads->current().blocked_signals;
  if (c.args[1] != 0) {
    auto set = space_.get<uint64_t>(c.args[1]);
    if (!set) return -EFAULT;
    uint64_t after;
    switch (c.args[0]) {
      case SIG_BLOCK:
        after = before | *set;
        break;
      case SIG_UNBLOCK:
        after = before & ~*set;
        break;
      case SIG_SETMASK:
        after = *set;
        break;
      default:
        return -EINVAL;
    }
    if (after != before) state_.threads.edit().current().blocked_signals = after;
  }
  return c.args[2] == 0 || space_.put(c.args[2], before) ? 0 : -EFAULT;
}

int64_t Kernel::sys_sigaltstack(const Syscall& c) {
  const Thread& now = state_.threads->current();
  Stack before{now.signal_stack_address, now.signal_stack_flags, 0, now.signal_stack_bytes};
  if (c.args[0] != 0) {
    auto wanted = space_.get<Stack>(c.args[0]);
    if (!wanted) return -EFAULT;
    Thread& t = state_.threads.edit().current();
    t.signal_stack_address = wanted->address;
    t.signal_stack_flags = wanted->flags;
    t.signal_stack_bytes = wanted->bytes;
  }
  return c.args[1] == 0 || space_.put(c.args[1], before) ? 0 : -EFAULT;
}

int64_t Kernel::sys_prlimit64(const Syscall& c) {
  if (c.args[0] != 0 && c.args[0] != kPid) return -ESRCH;
  if (c.args[2] != 0 && !space_.get<rlimit>(c.args[2])) return -EFAULT;
  if (c.args[2] != 0) return -EPERM;
  return sys_getrlimit({c.number, {c.args[1], c.args[3]}});
}

int64_t Kernel::sys_getrlimit(const Syscall& c) {
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  switch (c.args[0]) {
    case RLIMIT_STACK:
      limit = {space_.layout().stack_bytes(), space_.layout().stack_bytes()};
      break;
    case RLIMIT_NOFILE:
      limit = {limits_.open_files, limits_.open_files};
      break;
    case RLIMIT_AS:
    case RLIMIT_DATA:
      limit = {limits_.memory_bytes, limits_.memory_bytes};
      break;
    case RLIMIT_CORE:
      limit = {0, 0};
      break;
    case RLIMIT_NPROC:
      limit = {limits_.threads, limits_.threads};
      break;
    default:
      if (c.args[0] >= RLIM_NLIMITS) return -EINVAL;
      break;
  }
  return c.args[1] == 0 || space_.put(c.args[1], limit) ? 0 : -EFAULT;
}

int64_t Kernel::sys_uname(const Syscall& c) {
  utsname u = {};
  std::strcpy(u.sysname, "Linux");
  std::strcpy(u.nodename, "sluice");
  std::strcpy(u.release, "6.1.0-sluice");
  std::strcpy(u.version, "#1");
  std::strcpy(u.machine, "x86_64");
  return space_.put(c.args[0], u) ? 0 : -EFAULT;
}

int64_t Kernel::sys_sysinfo(const Syscall& c) {
  struct sysinfo s = {};
  s.totalram = limits_.memory_bytes;
  s.freeram = limits_.memory_bytes / 2;
  s.mem_unit = 1;
  s.procs = static_cast<unsigned short>(state_.threads->count());
  s.uptime = now_ns() / 1'000'000'000;
  return space_.put(c.args[0], s) ? 0 : -EFAULT;
}

int64_t Kernel::sys_sched_getaffinity(const Syscall& c) {
  if (c.args[0] != 0 && c.args[0] != kPid) return -ESRCH;
  if (c.args[1] < sizeof(uint64_t) || c.args[1] % sizeof(uint64_t) != 0) return -EINVAL;
  return space_.put(c.args[2], uint64_t{1}) ? sizeof(uint64_t) : -EFAULT;
}

int64_t Kernel::sys_getcpu(const Syscall& c) {
  if (c.args[0] != 0 && !space_.put(c.args[0], uint32_t{0})) return -EFAULT;
  if (c.args[1] != 0 && !space_.put(c.args[1], uint32_t{0})) return -EFAULT;
  return 0;
}

int64_t Kernel::sys_getresid(const Syscall& c) {
  for (int i = 0; i < 3; i++) {
    if (!space_.put(c.args[i], uint32_t{0})) return -EFAULT;
  }
  return 0;
}

int64_t Kernel::sys_getgroups(const Syscall&) { return 0; }

int64_t Kernel::sys_getrandom(const Syscall& c) {
  uint64_t bytes = std::min(c.args[1], kRandomBytesMax);
  if (bytes == 0) return 0;
  uint8_t* at = space_.for_write(c.args[0], bytes);
  if (at == nullptr) return -EFAULT;
  fill_random({at, bytes});
  return static_cast<int64_t>(bytes);
}

int64_t Kernel::return_zero(const Syscall&) { return 0; }
int64_t Kernel::return_one(const Syscall&) { return static_cast<int64_t>(kPid); }

}  // namespace sluice::vmm
