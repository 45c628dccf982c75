#include "executor/vmm/syscalls.h"

#include <array>
#include <cerrno>

#include <sys/syscall.h>

#include "base/check.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kNumbersMax = 512;

}  // namespace

// The allow-list. Everything here acts on the sandbox's own state; nothing reaches the host's
// files, processes or network. A fixed result is for calls whose absence programs cope with
// (-ENOSYS: they have a fallback) or that have nothing to do here (0).
std::span<const SyscallRule> SyscallTable::rules() {
  using K = Kernel;
  static constexpr SyscallRule kRules[] = {
      // Input and output. The first read of stdin is where the snapshot is taken.
      {SYS_read, &K::sys_read, 0, "reads input and files"},
      {SYS_readv, &K::sys_readv, 0, "reads input and files"},
      {SYS_pread64, &K::sys_pread64, 0, "reads input and files"},
      {SYS_write, &K::sys_write, 0, "the result, the log, files"},
      {SYS_writev, &K::sys_writev, 0, "the result, the log, files"},
      {SYS_pwrite64, &K::sys_pwrite64, 0, "writes files"},
      {SYS_lseek, &K::sys_lseek, 0, "stdin and files are seekable"},
      {SYS_poll, &K::sys_poll, 0, "event loops wait for input; all of it is there"},
      {SYS_ppoll, &K::sys_ppoll, 0, "as poll"},
      {SYS_select, &K::sys_select, 0, "as poll"},
      {SYS_pselect6, &K::sys_pselect6, 0, "as poll"},
      {SYS_pipe, &K::sys_pipe2, 0, "threads wake each other"},
      {SYS_pipe2, &K::sys_pipe2, 0, "threads wake each other"},
      {SYS_eventfd, &K::sys_eventfd2, 0, "threads wake each other"},
      {SYS_eventfd2, &K::sys_eventfd2, 0, "threads wake each other"},
      {SYS_epoll_create, &K::sys_epoll_create1, 0, "event loops"},
      {SYS_epoll_create1, &K::sys_epoll_create1, 0, "event loops"},
      {SYS_epoll_ctl, &K::sys_epoll_ctl, 0, "event loops"},
      {SYS_epoll_wait, &K::sys_epoll_wait, 0, "event loops"},
      {SYS_epoll_pwait, &K::sys_epoll_wait, 0, "event loops"},
      {SYS_ioctl, &K::sys_ioctl, 0, "programs ask whether stdout is a terminal"},
      {SYS_ftruncate, &K::sys_ftruncate, 0, "private files"},
      {SYS_fsync, nullptr, 0, "nothing to do: the files live in memory"},
      {SYS_fdatasync, nullptr, 0, "as fsync"},
      {SYS_sync, nullptr, 0, "as fsync"},
      {SYS_fadvise64, nullptr, 0, "a hint"},
      {SYS_fallocate, nullptr, -EOPNOTSUPP, "optional; the C library writes zeros instead"},
      {SYS_flock, nullptr, 0, "nobody else can hold a lock"},
      {SYS_sendfile, nullptr, -ENOSYS, "cat and cp fall back to read and write"},
      {SYS_splice, nullptr, -ENOSYS, "as sendfile"},
      {SYS_copy_file_range, nullptr, -ENOSYS, "as sendfile"},

      // The private file system.
      {SYS_open, &K::sys_open, 0, "private files"},
      {SYS_openat, &K::sys_openat, 0, "private files"},
      {SYS_creat, &K::sys_creat, 0, "private files"},
      {SYS_openat2, nullptr, -ENOSYS, "the caller falls back to openat"},
      {SYS_close, &K::sys_close, 0, "descriptors"},
      {SYS_close_range, &K::sys_close_range, 0, "descriptors"},
      {SYS_dup, &K::sys_dup, 0, "shells redirect"},
      {SYS_dup2, &K::sys_dup2, 0, "shells redirect"},
      {SYS_dup3, &K::sys_dup3, 0, "shells redirect"},
      {SYS_fcntl, &K::sys_fcntl, 0, "flags of descriptors"},
      {SYS_stat, &K::sys_stat, 0, "looks at files"},
      {SYS_lstat, &K::sys_lstat, 0, "looks at files"},
      {SYS_fstat, &K::sys_fstat, 0, "stdio chooses its buffer by it"},
      {SYS_newfstatat, &K::sys_newfstatat, 0, "looks at files"},
      {SYS_statx, &K::sys_statx, 0, "looks at files"},
      {SYS_statfs, nullptr, -ENOSYS, "optional"},
      {SYS_fstatfs, nullptr, -ENOSYS, "optional"},
      {SYS_access, &K::sys_access, 0, "looks at files"},
      {SYS_faccessat, &K::sys_faccessat, 0, "looks at files"},
      {SYS_faccessat2, &K::sys_faccessat, 0, "looks at files"},
      {SYS_readlink, &K::sys_readlink, 0, "static start-up code asks for /proc/self/exe"},
      {SYS_readlinkat, &K::sys_readlinkat, 0, "as readlink"},
      {SYS_getcwd, &K::sys_getcwd, 0, "working directory"},
      {SYS_chdir, &K::sys_chdir, 0, "working directory"},
      {SYS_fchdir, &K::sys_fchdir, 0, "working directory"},
      {SYS_mkdir, &K::sys_mkdir, 0, "private directories"},
      {SYS_mkdirat, &K::sys_mkdirat, 0, "private directories"},
      {SYS_rmdir, &K::sys_rmdir, 0, "private directories"},
      {SYS_unlink, &K::sys_unlink, 0, "private files"},
      {SYS_unlinkat, &K::sys_unlinkat, 0, "private files"},
      {SYS_rename, &K::sys_rename, 0, "private files"},
      {SYS_renameat, &K::sys_renameat, 0, "private files"},
      {SYS_renameat2, &K::sys_renameat, 0, "private files"},
      {SYS_symlink, &K::sys_symlink, 0, "private links"},
      {SYS_symlinkat, &K::sys_symlinkat, 0, "private links"},
      {SYS_link, nullptr, -EPERM, "as on a file system without hard links"},
      {SYS_linkat, nullptr, -EPERM, "as link"},
      {SYS_truncate, &K::sys_truncate, 0, "private files"},
      {SYS_chmod, &K::sys_chmod, 0, "kept, not enforced: there is one user"},
      {SYS_fchmod, &K::sys_fchmod, 0, "as chmod"},
      {SYS_fchmodat, &K::sys_fchmodat, 0, "as chmod"},
      {SYS_utimensat, nullptr, 0, "times of private files are not kept"},
      {SYS_getdents64, &K::sys_getdents64, 0, "lists directories"},
      {SYS_umask, &K::sys_umask, 0, "kept"},
      {SYS_getxattr, nullptr, -EOPNOTSUPP, "ls and cp ask"},
      {SYS_lgetxattr, nullptr, -EOPNOTSUPP, "ls and cp ask"},
      {SYS_fgetxattr, nullptr, -EOPNOTSUPP, "ls and cp ask"},

      // Memory.
      {SYS_brk, &K::sys_brk, 0, "the heap"},
      {SYS_mmap, &K::sys_mmap, 0, "memory, and copies of files"},
      {SYS_munmap, &K::sys_munmap, 0, "anonymous memory"},
      {SYS_mprotect, &K::sys_mprotect, 0, "read-only relocations, guards, compilers"},
      {SYS_mremap, &K::sys_mremap, 0, "realloc of large blocks"},
      {SYS_madvise, &K::sys_madvise, 0, "allocators give pages back"},
      {SYS_mlock, nullptr, 0, "nothing to do"},
      {SYS_munlock, nullptr, 0, "nothing to do"},
      {SYS_mincore, nullptr, -ENOSYS, "optional"},
      {SYS_membarrier, nullptr, -ENOSYS, "the caller falls back"},

      // The process.
      {SYS_exit, &K::sys_exit_thread, 0, "the end of a thread"},
      {SYS_exit_group, &K::sys_exit, 0, "the end"},
      {SYS_kill, &K::sys_kill, 0, "itself only"},
      {SYS_tkill, &K::sys_tkill, 0, "itself only"},
      {SYS_tgkill, &K::sys_tgkill, 0, "abort()"},
      {SYS_arch_prctl, &K::sys_arch_prctl, 0, "thread-local storage"},
      {SYS_prctl, &K::sys_prctl, 0, "names the thread"},
      {SYS_clone, &K::sys_clone, 0, "threads, no processes"},
      {SYS_clone3, nullptr, -ENOSYS, "the caller falls back to clone"},
      {SYS_set_tid_address, &K::sys_set_tid_address, 0, "start-up code, and joining a thread"},
      {SYS_set_robust_list, &K::return_zero, 0, "start-up code"},
      {SYS_rseq, nullptr, -ENOSYS, "start-up code copes without"},
      {SYS_rt_sigaction, &K::sys_rt_sigaction, 0, "kept; handlers are not run"},
      {SYS_rt_sigprocmask, &K::sys_rt_sigprocmask, 0, "kept"},
      {SYS_sigaltstack, &K::sys_sigaltstack, 0, "kept"},
      {SYS_prlimit64, &K::sys_prlimit64, 0, "tells the limits"},
      {SYS_getrlimit, &K::sys_getrlimit, 0, "tells the limits"},
      {SYS_getrusage, &K::sys_getrusage, 0, "zeros"},
      {SYS_getpid, &K::return_one, 0, "1"},
      {SYS_gettid, &K::sys_gettid, 0, "1 for the first"},
      {SYS_getpgrp, &K::return_one, 0, "1"},
      {SYS_getpgid, &K::return_one, 0, "1"},
      {SYS_getsid, &K::return_one, 0, "1"},
      {SYS_getppid, nullptr, 0, "no parent"},
      {SYS_getuid, nullptr, 0, "root of its sandbox"},
      {SYS_geteuid, nullptr, 0, "root of its sandbox"},
      {SYS_getgid, nullptr, 0, "root of its sandbox"},
      {SYS_getegid, nullptr, 0, "root of its sandbox"},
      {SYS_getresuid, &K::sys_getresid, 0, "zeros"},
      {SYS_getresgid, &K::sys_getresid, 0, "zeros"},
      {SYS_getgroups, &K::sys_getgroups, 0, "none"},
      {SYS_setuid, nullptr, 0, "busybox drops what it does not have"},
      {SYS_setgid, nullptr, 0, "busybox drops what it does not have"},
      {SYS_capget, nullptr, -EPERM, "optional"},
      {SYS_uname, &K::sys_uname, 0, "fixed values"},
      {SYS_sysinfo, &K::sys_sysinfo, 0, "sort sizes its buffer by it"},
      {SYS_getcpu, &K::sys_getcpu, 0, "one CPU"},
      {SYS_sched_getaffinity, &K::sys_sched_getaffinity, 0, "one CPU"},
      {SYS_sched_yield, &K::sys_sched_yield, 0, "another thread's turn"},
      {SYS_sched_setaffinity, nullptr, -EPERM, "optional"},
      {SYS_getpriority, nullptr, 20, "the usual one"},
      {SYS_personality, nullptr, 0, "Linux"},
      {SYS_futex, &K::sys_futex, 0, "locks"},
      {SYS_getrandom, &K::sys_getrandom, 0, "fresh at every call"},

      // Time.
      {SYS_clock_gettime, &K::sys_clock_gettime, 0, "true time"},
      {SYS_clock_getres, &K::sys_clock_getres, 0, "true time"},
      {SYS_gettimeofday, &K::sys_gettimeofday, 0, "true time"},
      {SYS_time, &K::sys_time, 0, "true time"},
      {SYS_times, &K::sys_times, 0, "wall clock only"},
      {SYS_nanosleep, &K::sys_nanosleep, 0, "until the timeout at most"},
      {SYS_clock_nanosleep, &K::sys_clock_nanosleep, 0, "until the timeout at most"},
      {SYS_setitimer, nullptr, -ENOSYS, "no signals are delivered"},
      {SYS_timer_create, nullptr, -ENOSYS, "no signals are delivered"},

      // There is no network. The C library looks for its name service by a socket.
      {SYS_socket, nullptr, -EAFNOSUPPORT, "name look-ups fail as where there is no network"},

      // Newer interfaces that callers try first and do without.
      {SYS_io_uring_setup, nullptr, -ENOSYS, "libuv falls back"},
      {SYS_inotify_init1, nullptr, -ENOSYS, "optional"},
  };
  return kRules;
}

const SyscallRule* SyscallTable::find(uint64_t number) {
  static const auto kByNumber = [] {
    std::array<const SyscallRule*, kNumbersMax> table{};
    for (const SyscallRule& rule : rules()) {
      CHECK(rule.number < kNumbersMax && table[rule.number] == nullptr);
      table[rule.number] = &rule;
    }
    return table;
  }();
  return number < kNumbersMax ? kByNumber[number] : nullptr;
}

}  // namespace sluice::vmm
