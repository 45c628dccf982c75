#include "executor/process/filter.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor/process/wire.h"

namespace sluice::process {
namespace {

constexpr int kProtocolFd = 3;
constexpr uint64_t kFchmodat2 = 452;  // newer than Debian 12's headers; C libraries fall back
constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
// Flags of clone() that a new thread may not have: all namespaces, and being traced.
constexpr uint64_t kCloneForbidden = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                     CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_PTRACE |
                                     CLONE_VFORK | CLONE_PIDFD;
constexpr uint64_t kLow32 = 0xffffffff;

// Calls that act on the process itself, on its descriptors, or on files that its namespace shows.
constexpr int kAllowed[] = {
    // Input and output on descriptors, all of which are its own.
    SYS_write,
    SYS_writev,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_preadv,
    SYS_lseek,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_pipe,
    SYS_pipe2,
    SYS_eventfd2,
    SYS_epoll_create,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    // Files: a read-only root, and a private file system with a bound.
    SYS_open,
    SYS_openat,
    SYS_creat,
    SYS_stat,
    SYS_lstat,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_getcwd,
    SYS_chdir,
    SYS_fchdir,
    SYS_mkdir,
    SYS_mkdirat,
    SYS_rmdir,
    SYS_unlink,
    SYS_unlinkat,
    SYS_rename,
    SYS_renameat,
    SYS_renameat2,
    SYS_truncate,
    SYS_link,
    SYS_linkat,
    SYS_symlink,
    SYS_symlinkat,
    SYS_chmod,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_utimensat,
    SYS_utime,
    SYS_utimes,
    SYS_getdents,
    SYS_getdents64,
    SYS_umask,
    // Memory, bounded by RLIMIT_AS.
    SYS_brk,
    SYS_munmap,
    SYS_mprotect,
    SYS_madvise,
    SYS_mincore,
    SYS_msync,
    SYS_membarrier,
    // The process and its threads.
    SYS_exit,
    SYS_arch_prctl,
    SYS_set_tid_address,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_futex,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigpending,
    SYS_rt_sigtimedwait,
    SYS_rt_sigsuspend,
    SYS_sigaltstack,
    SYS_pause,
    SYS_restart_syscall,
    SYS_getrlimit,
    SYS_setrlimit,
    SYS_getrusage,
    SYS_getpid,
    SYS_gettid,
    SYS_getppid,
    SYS_getpgrp,
    SYS_getpgid,
    SYS_getsid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getgroups,
    SYS_capget,
    SYS_uname,
    SYS_sysinfo,
    SYS_getcpu,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_getpriority,
    SYS_getrandom,
    SYS_wait4,
    SYS_waitid,
    // Time.
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_time,
    SYS_times,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_alarm,
    SYS_setitimer,
    SYS_getitimer,
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_delete,
    SYS_timer_getoverrun,
};

// What programs try and can do without; 0 is for what has nothing to do here.
struct Fixed {
  int number;
  int error;
};
constexpr Fixed kFixed[] = {
    // Locks of shared files (/dev/null is the host's) would tell one program of another.
    {SYS_flock, 0},
    {SYS_sync, 0},
    {SYS_syncfs, 0},
    {SYS_mlock, 0},
    {SYS_munlock, 0},
    {SYS_mlockall, 0},
    {SYS_munlockall, 0},
    {SYS_setuid, 0},  // busybox drops what it does not have
    {SYS_setgid, 0},
    {SYS_setgroups, EPERM},
    {SYS_chown, EPERM},
    {SYS_fchown, EPERM},
    {SYS_lchown, EPERM},
    {SYS_fchownat, EPERM},
    {SYS_mknod, EPERM},
    {SYS_mknodat, EPERM},
    {SYS_setpriority, EPERM},
    {SYS_sched_setaffinity, EPERM},
    {SYS_sched_setscheduler, EPERM},
    {SYS_sched_setparam, EPERM},
    {SYS_getxattr, EOPNOTSUPP},
    {SYS_lgetxattr, EOPNOTSUPP},
    {SYS_fgetxattr, EOPNOTSUPP},
    {SYS_listxattr, EOPNOTSUPP},
    {SYS_llistxattr, EOPNOTSUPP},
    {SYS_flistxattr, EOPNOTSUPP},
    {SYS_setxattr, EOPNOTSUPP},
    {SYS_lsetxattr, EOPNOTSUPP},
    {SYS_fsetxattr, EOPNOTSUPP},
    // Structures that a filter can not look into; the callers fall back.
    {SYS_clone3, ENOSYS},
    {SYS_openat2, ENOSYS},
    // Memory that no limit here would count.
    {SYS_memfd_create, ENOSYS},
    {SYS_sendfile, ENOSYS},
    {SYS_splice, ENOSYS},
    {SYS_tee, ENOSYS},
    {SYS_copy_file_range, ENOSYS},
    {SYS_io_uring_setup, ENOSYS},
    {SYS_inotify_init, ENOSYS},
    {SYS_inotify_init1, ENOSYS},
    {SYS_timerfd_create, ENOSYS},
    {SYS_signalfd4, ENOSYS},
};

constexpr int kReads[] = {SYS_read, SYS_readv, SYS_pread64};
constexpr int kPolls[] = {SYS_poll,     SYS_ppoll,      SYS_select,
                          SYS_pselect6, SYS_epoll_wait, SYS_epoll_pwait};
constexpr int kSignals[] = {SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo,
                            SYS_rt_tgsigqueueinfo};
constexpr uint64_t kTerminalQuestions[] = {TCGETS, TIOCGWINSZ, TIOCGPGRP};
constexpr uint64_t kDescriptorFlags[] = {FIONREAD, FIONBIO, FIOCLEX, FIONCLEX};
constexpr uint64_t kFcntl[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD,     F_SETFD,
                               F_GETFL, F_SETFL,         F_GETPIPE_SZ};
constexpr uint64_t kLocks[] = {F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW};  // as flock
constexpr uint64_t kPrctl[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE};

template <size_t N>
bool is_one_of(const int (&list)[N], uint64_t number) {
  for (int one : list) {
    if (static_cast<uint64_t>(one) == number) return true;
  }
  return false;
}

// Collects the rules; the first failure is kept.
class Rules {
 public:
  explicit Rules(scmp_filter_ctx context) : context_(context) {}

  void add(uint32_t action, int number, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    int result = seccomp_rule_add_array(
        context_, action, number, static_cast<unsigned>(conditions.size()), conditions.begin());
    if (result != 0 && failed_ == 0) failed_ = -result;
  }
  int failed() const { return failed_; }

 private:
  scmp_filter_ctx context_;
  int failed_ = 0;
};

scmp_arg_cmp is(unsigned arg, uint64_t value, uint64_t mask = kLow32) {
  return {arg, SCMP_CMP_MASKED_EQ, mask, value};
}

// A rule for descriptors from 4 on also holds for some odd 64-bit values that the kernel takes for
// 0: then a hint is missed, no more.
void add_reads(Rules& rules, uint32_t watch) {
  for (int number : kReads) {
    for (unsigned fd = 0; fd < 4; fd++) {
      bool watched =
          (fd == 0 && (watch & kWatchStdin)) || (fd == kProtocolFd && (watch & kWatchProtocol));
      if (!watched) rules.add(SCMP_ACT_ALLOW, number, {is(0, fd)});
    }
    rules.add(SCMP_ACT_ALLOW, number, {{0, SCMP_CMP_GE, 4, 0}});
  }
}

void add_rules(Rules& rules, uint32_t watch, int exec_fd, uint64_t watched_mapping_bytes) {
  for (int number : kAllowed) rules.add(SCMP_ACT_ALLOW, number);
  for (const Fixed& f : kFixed) rules.add(SCMP_ACT_ERRNO(static_cast<uint16_t>(f.error)), f.number);
  add_reads(rules, watch);
  // poll and select go through the init (the default) but pass there; sleeping by them need not.
  for (int number : {SYS_poll, SYS_ppoll}) rules.add(SCMP_ACT_ALLOW, number, {is(1, 0)});
  for (int number : {SYS_select, SYS_pselect6}) rules.add(SCMP_ACT_ALLOW, number, {is(0, 0)});
  // Success needs no look.
  rules.add(SCMP_ACT_ALLOW, SYS_exit_group, {is(0, 0)});
  rules.add(SCMP_ACT_ALLOW, SYS_mmap, {{1, SCMP_CMP_LT, watched_mapping_bytes, 0}});
  rules.add(SCMP_ACT_ALLOW, SYS_mremap, {{2, SCMP_CMP_LT, watched_mapping_bytes, 0}});
  for (uint64_t command : kFcntl) rules.add(SCMP_ACT_ALLOW, SYS_fcntl, {is(1, command)});
  for (uint64_t command : kLocks) {
    rules.add(SCMP_ACT_ERRNO(0), SYS_fcntl, {is(1, command)});
  }
  for (uint64_t request : kTerminalQuestions) {
    rules.add(SCMP_ACT_ERRNO(ENOTTY), SYS_ioctl, {is(1, request)});
  }
  for (uint64_t request : kDescriptorFlags) rules.add(SCMP_ACT_ALLOW, SYS_ioctl, {is(1, request)});
  for (uint64_t option : kPrctl) rules.add(SCMP_ACT_ALLOW, SYS_prctl, {is(0, option)});
  // The own limits, which can be lowered only.
  rules.add(SCMP_ACT_ALLOW, SYS_prlimit64, {is(0, 0)});
  // The C library asks a name service daemon first, and copes.
  rules.add(SCMP_ACT_ERRNO(EACCES), SYS_socket, {is(0, AF_UNIX)});
  rules.add(SCMP_ACT_ALLOW, SYS_personality, {is(0, 0)});
  rules.add(SCMP_ACT_ALLOW, SYS_personality, {is(0, kLow32)});
  rules.add(SCMP_ACT_ALLOW, SYS_execveat,
            {is(0, static_cast<uint64_t>(exec_fd)), is(4, AT_EMPTY_PATH)});
}

}  // namespace

Told told(uint64_t number, const uint64_t args[6], uint32_t watch, int& error) {
  uint32_t first = static_cast<uint32_t>(args[0]);
  if (is_one_of(kReads, number)) {
    bool watched =
        (first == 0 && (watch & kWatchStdin)) || (first == kProtocolFd && (watch & kWatchProtocol));
    return watched ? Told::kWaitsForInput : Told::kForbidden;
  }
  if (is_one_of(kPolls, number)) return Told::kPolls;
  if (is_one_of(kSignals, number)) return Told::kFails;
  switch (number) {
    case SYS_mmap:
      return Told::kMaps;
    case SYS_mremap:
      return Told::kGrowsMapping;
    case SYS_exit_group:
      return Told::kFails;
    case SYS_prctl:
      error = EINVAL;
      return Told::kRefused;
    case SYS_fcntl:
      error = EINVAL;
      return Told::kRefused;
    case SYS_ioctl:
      error = ENOTTY;
      return Told::kRefused;
    case SYS_prlimit64:
    case SYS_personality:
      error = EPERM;
      return Told::kRefused;
    case kFchmodat2:
      error = ENOSYS;
      return Told::kRefused;
    case SYS_clone:
      return (args[0] & kThreadFlags) == kThreadFlags && (args[0] & kCloneForbidden) == 0
                 ? Told::kMakesThread
                 : Told::kForbidden;
    default:
      return Told::kForbidden;
  }
}

Expected<std::vector<sock_filter>> make_filter(uint32_t watch, int exec_fd,
                                               uint64_t watched_mapping_bytes) {
  auto refused = [](int error) {
    return fail(Code::kUnavailable,
                fmt::format("the system call filter could not be made: {}", std::strerror(error)));
  };
  struct Context {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_NOTIFY);
    ~Context() {
      if (context != nullptr) seccomp_release(context);
    }
  } made;
  if (made.context == nullptr) return refused(ENOMEM);
  // Calls by the 32-bit gates are of another architecture.
  seccomp_attr_set(made.context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  // A binary search instead of a list, for filters that most calls pass.
  seccomp_attr_set(made.context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  Rules rules(made.context);
  add_rules(rules, watch, exec_fd, watched_mapping_bytes);
  if (rules.failed() != 0) return refused(rules.failed());

  Fd file(memfd_create("filter", MFD_CLOEXEC));
  if (!file) return refused(errno);
  if (int result = seccomp_export_bpf(made.context, file.get()); result != 0) {
    return refused(-result);
  }
  off_t bytes = lseek(file.get(), 0, SEEK_END);
  std::vector<sock_filter> filter(static_cast<size_t>(bytes) / sizeof(sock_filter));
  if (pread(file.get(), filter.data(), static_cast<size_t>(bytes), 0) != bytes) return refused(EIO);
  return filter;
}

}  // namespace sluice::process
