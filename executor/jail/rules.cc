#include "executor/jail/rules.h"

#include <cerrno>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

namespace sluice::executor::jail {
namespace {

using Argument = unsigned;

scmp_arg_cmp equals(Argument argument, uint64_t value) { return {argument, SCMP_CMP_EQ, value, 0}; }
scmp_arg_cmp at_most(Argument argument, uint64_t value) {
  return {argument, SCMP_CMP_LE, value, 0};
}
// None but these bits are set.
scmp_arg_cmp only_bits(Argument argument, uint64_t bits) {
  return {argument, SCMP_CMP_MASKED_EQ, ~bits, 0};
}
scmp_arg_cmp without(Argument argument, uint64_t bits) {
  return {argument, SCMP_CMP_MASKED_EQ, bits, 0};
}
// `value`, whatever the bits outside of `mask` are.
scmp_arg_cmp masked(Argument argument, uint64_t mask, uint64_t value) {
  return {argument, SCMP_CMP_MASKED_EQ, mask, value};
}

// Requests whose number depends on the size of a struct with a flexible array, which C++ may count
// otherwise; spelled out as vmm/kvm.cc does.
constexpr uint64_t kKvmSetCpuid2 = 0x4008ae90;
constexpr uint64_t kKvmSetMsrs = 0x4008ae89;
constexpr uint64_t kKvmGetMsrs = 0xc008ae88;
constexpr uint64_t kKvmGetXsave = 0x9000aea4;
constexpr uint64_t kKvmSetXsave = 0x5000aea5;

constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                                  CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                                  CLONE_CHILD_CLEARTID;
constexpr uint64_t kNoexecSeal = 8;      // MFD_NOEXEC_SEAL, which Debian 12's headers lack
constexpr uint64_t kGuardInstall = 102;  // MADV_GUARD_INSTALL, likewise

void add(std::vector<Rule>& to, std::vector<Rule> more) {
  to.insert(to.end(), more.begin(), more.end());
}

// KVM: what vmm/kvm.cc asks for once /dev/kvm is open and checked, nothing else that KVM offers,
// and nothing of what terminals, sockets and file systems offer by the same system call.
void add_kvm(std::vector<Rule>& list) {
  for (uint64_t request : {
           static_cast<uint64_t>(KVM_RUN),                     // a call
           static_cast<uint64_t>(KVM_GET_DIRTY_LOG),           // reset
           static_cast<uint64_t>(KVM_CLEAR_DIRTY_LOG),         // reset
           static_cast<uint64_t>(KVM_GET_SREGS),               // snapshot
           static_cast<uint64_t>(KVM_SET_SREGS),               // first entry, reset
           static_cast<uint64_t>(KVM_CREATE_VM),               // a sandbox
           static_cast<uint64_t>(KVM_CREATE_VCPU),             //
           static_cast<uint64_t>(KVM_ENABLE_CAP),              // its dirty log's mode
           static_cast<uint64_t>(KVM_X86_SET_MSR_FILTER),      // that it has no MSRs
           static_cast<uint64_t>(KVM_SET_USER_MEMORY_REGION),  // its memory
           kKvmSetCpuid2,                                      // what its CPU is
           kKvmSetMsrs,                                        // where `syscall` leads
           static_cast<uint64_t>(KVM_SET_XCRS),                // whether there is AVX
           kKvmGetXsave,                                       // snapshot of the FPU
           kKvmSetXsave,                                       // and back
           kKvmGetMsrs,                                        // the guest's time stamp counter
       }) {
    list.push_back({SCMP_SYS(ioctl), {equals(1, request)}});
  }
}

// Descriptors: none can be opened but memory files, and those that KVM makes.
void add_descriptors(std::vector<Rule>& list, int socket_fd) {
  uint64_t socket = static_cast<uint64_t>(socket_fd);
  add(list,
      {
          // The broker's commands; answers to it.
          {SCMP_SYS(read), {equals(0, socket)}},
          {SCMP_SYS(sendmsg), {equals(0, socket)}},
          // A last word on stdout or stderr, which are the broker's log; writev is the C library's.
          {SCMP_SYS(write), {equals(0, STDOUT_FILENO)}},
          {SCMP_SYS(write), {equals(0, STDERR_FILENO)}},
          {SCMP_SYS(writev), {equals(0, STDERR_FILENO)}},
          // A sandbox's end.
          {SCMP_SYS(close)},
          // Guest memory: made, sized, holes punched and looked for, sealed as a snapshot.
          {SCMP_SYS(memfd_create), {only_bits(1, MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoexecSeal)}},
          {SCMP_SYS(ftruncate)},
          {SCMP_SYS(fallocate), {equals(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)}},
          {SCMP_SYS(lseek), {equals(2, SEEK_DATA)}},
          {SCMP_SYS(lseek), {equals(2, SEEK_HOLE)}},
          {SCMP_SYS(fcntl), {equals(1, F_ADD_SEALS)}},
          // Close-on-exec for what KVM makes; nothing is executed, but nobody has to trust that.
          {SCMP_SYS(fcntl), {equals(1, F_SETFD)}},
      });
}

// Memory: never executable, so that what is injected has to make do with the code that is there.
void add_memory(std::vector<Rule>& list) {
  add(list, {
                // Guests' memory, the heap, threads' stacks, a vCPU's run page.
                {SCMP_SYS(mmap), {without(2, PROT_EXEC)}},
                // Stacks and arenas; a guest's translations are made forgotten by it.
                {SCMP_SYS(mprotect), {without(2, PROT_EXEC)}},
                {SCMP_SYS(munmap)},
                // realloc of what is large.
                {SCMP_SYS(mremap)},
                // The heap.
                {SCMP_SYS(brk)},
            });
  // Advice that drops, brings in or marks pages of our own. Not the kinds that merge them with
  // other processes' (a side channel) or test the machine's memory.
  for (uint64_t advice :
       {static_cast<uint64_t>(MADV_DONTNEED), static_cast<uint64_t>(MADV_FREE),
        static_cast<uint64_t>(MADV_REMOVE), static_cast<uint64_t>(MADV_DONTFORK),
        static_cast<uint64_t>(MADV_DONTDUMP), static_cast<uint64_t>(MADV_HUGEPAGE),
        static_cast<uint64_t>(MADV_NOHUGEPAGE), static_cast<uint64_t>(MADV_POPULATE_READ),
        static_cast<uint64_t>(MADV_POPULATE_WRITE), kGuardInstall}) {
    list.push_back({SCMP_SYS(madvise), {equals(2, advice)}});
  }
}

// Threads: started, waited for, ended. A process can not be started.
void add_threads(std::vector<Rule>& list) {
  add(list, {
                // The flags of pthread_create, these and no fewer: without CLONE_THREAD it is fork.
                {SCMP_SYS(clone), {equals(0, kThreadFlags)}},
                // Its flags are in memory, where a filter does not see them. The C library takes
                // clone instead where it is told that there is no clone3.
                {SCMP_SYS(clone3), {}, SCMP_ACT_ERRNO(ENOSYS)},
                {SCMP_SYS(set_robust_list)},
                {SCMP_SYS(rseq)},
                // A thread's name, seen in top.
                {SCMP_SYS(prctl), {equals(0, PR_SET_NAME)}},
                {SCMP_SYS(gettid)},
                {SCMP_SYS(sched_yield)},
                // How many arenas the allocator makes.
                {SCMP_SYS(sched_getaffinity), {equals(0, 0)}},
                {SCMP_SYS(exit)},
                {SCMP_SYS(exit_group)},
            });
  // Mutexes, condition variables, joining. Not the requeueing and priority-inheriting kinds, where
  // most of the kernel's faults have been.
  for (uint64_t operation : {FUTEX_WAIT, FUTEX_WAKE, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET}) {
    list.push_back({SCMP_SYS(futex), {masked(1, ~0ull & FUTEX_CMD_MASK, operation)}});
  }
}

// Time, signals and randomness.
void add_time_and_signals(std::vector<Rule>& list) {
  uint64_t self = static_cast<uint64_t>(getpid());
  add(list, {
                // Clocks; mostly without a system call. The kernel's own only: others would name
                // processes and devices.
                {SCMP_SYS(clock_gettime), {at_most(0, CLOCK_TAI)}},
                // A guest that sleeps.
                {SCMP_SYS(clock_nanosleep), {at_most(0, CLOCK_TAI)}},
                {SCMP_SYS(nanosleep)},
                // The watchdog of each thread (vmm/watchdog.cc), by wall clock or CPU time.
                {SCMP_SYS(timer_create), {equals(0, CLOCK_MONOTONIC)}},
                {SCMP_SYS(timer_create), {equals(0, CLOCK_THREAD_CPUTIME_ID)}},
                {SCMP_SYS(timer_settime)},
                {SCMP_SYS(timer_delete)},
                {SCMP_SYS(rt_sigaction)},
                {SCMP_SYS(rt_sigprocmask)},
                {SCMP_SYS(rt_sigreturn)},
                // A wait that a stop and continue interrupted goes on by it.
                {SCMP_SYS(restart_syscall)},
                // abort(), after a CHECK: to this process and no other.
                {SCMP_SYS(getpid)},
                {SCMP_SYS(tgkill), {equals(0, self)}},
                // Fresh randomness for each call.
                {SCMP_SYS(getrandom)},
            });
}

// Processes as sandboxes: what talking to them takes, by sockets and memory files that are handed
// on. They are started by a process outside of this jail (executor/process).
void add_processes(std::vector<Rule>& list) {
  add(list, {
                // A pair for each sandbox. Of this kind only: no address leads out of it.
                {SCMP_SYS(socketpair), {equals(0, AF_UNIX)}},
                {SCMP_SYS(sendmsg)},
                {SCMP_SYS(recvmsg)},
                // send and recv: to and from nobody but the other end.
                {SCMP_SYS(sendto), {equals(4, 0)}},
                {SCMP_SYS(recvfrom), {equals(4, 0)}},
                {SCMP_SYS(read)},
                {SCMP_SYS(write)},
                {SCMP_SYS(poll)},
                {SCMP_SYS(ppoll)},
                {SCMP_SYS(fcntl), {equals(1, F_SETFL)}},
                // A memory file that its receiver may only read, from its start.
                {SCMP_SYS(fchmod)},
                {SCMP_SYS(lseek), {equals(2, SEEK_SET)}},
                // The end of the process that starts them.
                {SCMP_SYS(wait4)},
            });
}

}  // namespace

std::vector<Rule> rules(int socket_fd, Sandboxes sandboxes) {
  std::vector<Rule> list;
  if (sandboxes == Sandboxes::kKvm) {
    add_kvm(list);
  } else {
    add_processes(list);
  }
  add_descriptors(list, socket_fd);
  add_memory(list);
  add_threads(list);
  add_time_and_signals(list);
  return list;
}

}  // namespace sluice::executor::jail
