// What a program that has become the executor would try: each attempt is its end.

#include <csignal>
#include <ctime>
#include <set>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/jail/rules.h"
#include "tests/executor/jail_harness.h"

namespace sluice::executor::jail {
namespace {

// What was there before the jail was entered.
struct World {
  pid_t other = 0;  // another process
  int kvm = -1;     // /dev/kvm
  void* page = nullptr;
};
World world;

void* new_page(int protection) {
  return mmap(nullptr, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

long i386_call(long number) {
  long result = number;
  asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
  return result;
}

struct Attack {
  const char* name;
  void (*attempt)(int socket);
};

char* const kNoWords[] = {nullptr};
iovec part = {&world, sizeof world};
char buffer[4096];

const Attack kAttacks[] = {
    // Other programs.
    {"execve", [](int) { execve("/bin/sh", kNoWords, kNoWords); }},
    {"execveat", [](int) { syscall(SYS_execveat, AT_FDCWD, "/bin/sh", kNoWords, kNoWords, 0); }},
    {"fork", [](int) { syscall(SYS_fork); }},
    {"vfork_flags", [](int) { syscall(SYS_clone, CLONE_VM | SIGCHLD, 0, 0, 0, 0); }},
    {"clone_new_user", [](int) { syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); }},
    // Files.
    {"open", [](int) { syscall(SYS_open, "/etc/passwd", O_RDONLY); }},
    {"openat", [](int) { syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY); }},
    {"openat_of_nothing", [](int) { syscall(SYS_openat, -1, "", O_RDONLY); }},
    {"openat2", [](int) { syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", nullptr, 0); }},
    {"creat", [](int) { syscall(SYS_creat, "/tmp/file", 0600); }},
    {"unlink", [](int) { syscall(SYS_unlink, "/tmp/file"); }},
    {"open_by_handle_at", [](int) { syscall(SYS_open_by_handle_at, 0, nullptr, 0); }},
    {"chroot", [](int) { syscall(SYS_chroot, ".."); }},
    {"fchdir", [](int) { syscall(SYS_fchdir, 0); }},
    // Descriptors that are not its business.
    {"read_stdin", [](int) { syscall(SYS_read, 0, buffer, 1); }},
    {"sendmsg_elsewhere",
     [](int) {
       msghdr none = {};
       sendmsg(1, &none, 0);
     }},
    {"write_elsewhere", [](int socket) { syscall(SYS_write, socket, buffer, 1); }},
    {"dup2", [](int) { syscall(SYS_dup2, 0, 2); }},
    {"fcntl_duplicate", [](int) { syscall(SYS_fcntl, 0, F_DUPFD, 10); }},
    {"fcntl_flags", [](int) { syscall(SYS_fcntl, 2, F_SETFL, 0); }},
    {"fcntl_owner", [](int socket) { syscall(SYS_fcntl, socket, F_SETOWN, 1); }},
    {"recvmsg",
     [](int socket) {
       msghdr none = {};
       syscall(SYS_recvmsg, socket, &none, 0);
     }},
    // The network.
    {"socket_inet", [](int) { syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }},
    {"socket_unix", [](int) { syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }},
    {"socket_netlink", [](int) { syscall(SYS_socket, AF_NETLINK, SOCK_RAW, 0); }},
    {"socketpair", [](int) { syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, buffer); }},
    {"connect", [](int socket) { syscall(SYS_connect, socket, buffer, 16); }},
    // Other processes.
    {"ptrace_attach", [](int) { syscall(SYS_ptrace, PTRACE_ATTACH, world.other, 0, 0); }},
    {"ptrace_traceme", [](int) { syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0); }},
    {"process_vm_readv",
     [](int) { syscall(SYS_process_vm_readv, world.other, &part, 1, &part, 1, 0); }},
    {"process_vm_writev",
     [](int) { syscall(SYS_process_vm_writev, world.other, &part, 1, &part, 1, 0); }},
    {"kill", [](int) { syscall(SYS_kill, world.other, SIGKILL); }},
    {"kill_itself", [](int) { syscall(SYS_kill, getpid(), SIGKILL); }},
    {"tkill", [](int) { syscall(SYS_tkill, world.other, SIGKILL); }},
    {"tgkill", [](int) { syscall(SYS_tgkill, world.other, world.other, SIGKILL); }},
    {"rt_sigqueueinfo", [](int) { syscall(SYS_rt_sigqueueinfo, world.other, SIGKILL, buffer); }},
    {"pidfd_open", [](int) { syscall(SYS_pidfd_open, world.other, 0); }},
    {"sched_setaffinity", [](int) { syscall(SYS_sched_setaffinity, world.other, 8, buffer); }},
    {"affinity_of_another", [](int) { syscall(SYS_sched_getaffinity, world.other, 8, buffer); }},
    {"prlimit", [](int) { syscall(SYS_prlimit64, world.other, 0, buffer, nullptr); }},
    {"clock_of_another",
     [](int) {
       timespec time;
       syscall(SYS_clock_gettime, static_cast<long>(~world.other) << 3 | 2, &time);
     }},
    // Rights.
    {"setresuid", [](int) { syscall(SYS_setresuid, 0, 0, 0); }},
    {"capset", [](int) { syscall(SYS_capset, buffer, buffer); }},
    {"unshare", [](int) { syscall(SYS_unshare, CLONE_NEWUSER); }},
    {"setns", [](int) { syscall(SYS_setns, 0, 0); }},
    {"mount", [](int) { syscall(SYS_mount, "none", "/", "tmpfs", 0, nullptr); }},
    {"umount", [](int) { syscall(SYS_umount2, "/", MNT_DETACH); }},
    {"fsopen", [](int) { syscall(SYS_fsopen, "tmpfs", 0); }},
    {"seccomp", [](int) { syscall(SYS_seccomp, 0, 0, nullptr); }},
    {"prctl_dumpable", [](int) { syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
    {"prctl_parent_death", [](int) { syscall(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0); }},
    {"personality", [](int) { syscall(SYS_personality, 0x0400000 /* READ_IMPLIES_EXEC */); }},
    // The parts of the kernel where its faults are.
    {"bpf", [](int) { syscall(SYS_bpf, BPF_MAP_CREATE, buffer, sizeof(bpf_attr)); }},
    {"userfaultfd", [](int) { syscall(SYS_userfaultfd, O_CLOEXEC); }},
    {"io_uring_setup", [](int) { syscall(SYS_io_uring_setup, 8, buffer); }},
    {"perf_event_open", [](int) { syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0); }},
    {"keyctl", [](int) { syscall(SYS_keyctl, 0, 0, 0, 0, 0); }},
    {"modify_ldt", [](int) { syscall(SYS_modify_ldt, 0, buffer, sizeof buffer); }},
    {"init_module", [](int) { syscall(SYS_init_module, buffer, 1, ""); }},
    {"shmget", [](int) { syscall(SYS_shmget, 1, 4096, 0); }},
    {"futex_requeue_pi",
     [](int) { syscall(SYS_futex, buffer, FUTEX_CMP_REQUEUE_PI, 1, 0, buffer, 0); }},
    {"futex_lock_pi", [](int) { syscall(SYS_futex, buffer, FUTEX_LOCK_PI, 0, 0, 0, 0); }},
    {"madvise_mergeable", [](int) { madvise(world.page, 4096, MADV_MERGEABLE); }},
    {"memfd_huge", [](int) { syscall(SYS_memfd_create, "x", MFD_HUGETLB); }},
    // Requests that are not the sandboxes'.
    {"ioctl_terminal_input", [](int) { ioctl(2, TIOCSTI, "x"); }},
    {"ioctl_nonblocking", [](int socket) { ioctl(socket, FIONBIO, buffer); }},
    {"ioctl_kvm_irqchip", [](int) { ioctl(world.kvm, KVM_CREATE_IRQCHIP, 0); }},
    {"ioctl_kvm_device", [](int) { ioctl(world.kvm, KVM_CREATE_DEVICE, buffer); }},
    {"ioctl_kvm_run_and_more", [](int) { syscall(SYS_ioctl, world.kvm, KVM_RUN | 1ull << 32, 0); }},
    // Code of its own.
    {"mprotect_exec", [](int) { mprotect(world.page, 4096, PROT_READ | PROT_EXEC); }},
    {"pkey_mprotect_exec",
     [](int) { syscall(SYS_pkey_mprotect, world.page, 4096, PROT_EXEC, -1); }},
    {"mmap_exec", [](int) { new_page(PROT_READ | PROT_EXEC); }},
    {"mmap_exec_of_memfd",
     [](int) {
       int fd = memfd_create("code", 0);
       mmap(nullptr, 4096, PROT_EXEC, MAP_PRIVATE, fd, 0);
     }},
    // Other doors to the same kernel.
    {"i386_getpid", [](int) { i386_call(20); }},
    {"i386_execve", [](int) { i386_call(11); }},
    {"x32_getpid", [](int) { syscall(0x40000000 | SYS_getpid); }},
};

using Case = std::tuple<As, Attack>;

class JailAttack : public testing::TestWithParam<Case> {
 public:
  static void SetUpTestSuite() {
    world.other = fork();
    if (world.other == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) pause();
    }
    world.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    ASSERT_GE(world.kvm, 0) << "/dev/kvm";
    world.page = new_page(PROT_READ | PROT_WRITE);
  }
  static void TearDownTestSuite() {
    // It was not touched.
    ASSERT_EQ(waitpid(world.other, nullptr, WNOHANG), 0);
    kill(world.other, SIGKILL);
    waitpid(world.other, nullptr, 0);
    close(world.kvm);
  }
};

TEST_P(JailAttack, IsItsEnd) {
  const auto& [as, attack] = GetParam();
  Prisoner prisoner(as, [attempt = attack.attempt](int socket) { attempt(socket); });
  ASSERT_NE(prisoner.missing().rfind("error", 0), 0u) << prisoner.missing();
  // Not so in what ships: a sanitizer's runtime looks for files and is told that there are none,
  // writes into pipes and asks about its threads.
  static const std::set<std::string> kOfSanitizers = {"open", "openat", "openat_of_nothing",
                                                      "write_elsewhere", "affinity_of_another"};
  bool harmless = !sanitizer_rules().empty() && kOfSanitizers.contains(attack.name);
  EXPECT_EQ(prisoner.end(), harmless ? "exit 0" : "signal " + std::to_string(SIGSYS));
}

INSTANTIATE_TEST_SUITE_P(Each, JailAttack,
                         testing::Combine(testing::ValuesIn(identities()),
                                          testing::ValuesIn(kAttacks)),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) + "_" +
                                  std::get<1>(info.param).name;
                         });

// Refused without more: the C library asks, and takes clone then.
TEST(JailRefuses, Clone3) {
  Prisoner prisoner(identities().front(), [](int socket) {
    uint64_t arguments[11] = {CLONE_NEWUSER};
    long made = syscall(SYS_clone3, arguments, sizeof arguments);
    send_text(socket, made == -1 && errno == ENOSYS ? "refused" : "let through");
  });
  prisoner.missing();
  EXPECT_EQ(prisoner.receive(), "refused");
}

}  // namespace
}  // namespace sluice::executor::jail
