// The jail's promises, from inside: what is forbidden, whoever enters; what still has to work.

#include <atomic>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/jail/filter.h"
#include "executor/jail/rules.h"
#include "tests/executor/jail_harness.h"

namespace sluice::executor::jail {
namespace {

const std::string kKilled = "signal " + std::to_string(SIGSYS);

class Jail : public testing::TestWithParam<As> {
 protected:
  bool by_root() const { return GetParam() == As::kRoot || GetParam() == As::kContainerRoot; }
  bool namespaces() const { return GetParam() != As::kUserNoNamespace; }
};

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The values of a line of /proc/PID/status, with single spaces.
std::string status_of(pid_t pid, const std::string& key) {
  std::istringstream lines(read_text("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(key + ":", 0) != 0) continue;
    std::istringstream words(line.substr(key.size() + 1));
    std::string joined;
    for (std::string word; words >> word;) joined += (joined.empty() ? "" : " ") + word;
    return joined;
  }
  return "(no line " + key + ")";
}

std::string link_of(pid_t pid, const std::string& name) {
  return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/" + name);
}

// Waits in the jail until the test has seen enough.
void wait_for_end(int socket) {
  char byte;
  syscall(SYS_read, socket, &byte, 1);
}

TEST_P(Jail, SaysWhatCouldNotBeHad) {
  Prisoner prisoner(GetParam(), wait_for_end);
  std::string missing = prisoner.missing();
  switch (GetParam()) {
    case As::kRoot:
    case As::kContainerRoot:
      EXPECT_EQ(missing, "");
      break;
    case As::kUser:
      EXPECT_EQ(missing.rfind("no user of its own (not started by root)", 0), 0u) << missing;
      if (geteuid() == 0) {
        EXPECT_NE(missing.find("; still in 1 further groups"), std::string::npos) << missing;
      }
      break;
    default:
      EXPECT_EQ(missing.rfind("no namespaces and no empty root directory (a user namespace: "
                              "Operation not permitted); no user of its own",
                              0),
                0u)
          << missing;
  }
}

TEST_P(Jail, IsNotEnteredByOneThreadOfSeveral) {
  Prisoner prisoner(
      GetParam(), [](int) {},
      [] {
        std::thread([] {
          for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
        }).detach();
      });
  EXPECT_EQ(prisoner.missing(), "error: the jail is entered with more than one thread");
}

TEST_P(Jail, HasNoRightsAndNoWayToNewOnes) {
  Prisoner prisoner(GetParam(), wait_for_end);
  prisoner.missing();
  pid_t pid = prisoner.pid();
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
    EXPECT_EQ(status_of(pid, set), "0000000000000000") << set;
  }
  // Without a namespace an ordinary user can not empty it; it gives nothing, with no_new_privs.
  if (namespaces()) {
    EXPECT_EQ(status_of(pid, "CapBnd"), "0000000000000000");
  }
  EXPECT_EQ(status_of(pid, "NoNewPrivs"), "1");
  EXPECT_EQ(status_of(pid, "Seccomp"), "2");
  std::string id = std::to_string(kUserId);
  if (by_root()) {
    EXPECT_EQ(status_of(pid, "Uid"), id + " " + id + " " + id + " " + id);
    EXPECT_EQ(status_of(pid, "Gid"), id + " " + id + " " + id + " " + id);
    EXPECT_EQ(status_of(pid, "Groups"), "");
  } else {
    EXPECT_NE(status_of(pid, "Uid").rfind("0 ", 0), 0u);
  }
  // Not dumpable: its files under /proc are root's, not its user's.
  struct stat owner;
  ASSERT_EQ(stat(("/proc/" + std::to_string(pid) + "/mem").c_str(), &owner), 0);
  EXPECT_EQ(owner.st_uid, geteuid() == 0 ? 0u : 65534u);
}

TEST_P(Jail, IsAlone) {
  Prisoner prisoner(GetParam(), wait_for_end);
  prisoner.missing();
  for (const char* name : {"mnt", "net", "ipc", "uts", "cgroup"}) {
    std::string link = std::string("ns/") + name;
    if (namespaces()) {
      EXPECT_NE(link_of(prisoner.pid(), link), link_of(getpid(), link));
    } else {
      EXPECT_EQ(link_of(prisoner.pid(), link), link_of(getpid(), link));
    }
  }
  if (!namespaces()) return;
  std::string proc = "/proc/" + std::to_string(prisoner.pid());
  EXPECT_TRUE(std::filesystem::is_empty(proc + "/root/"));
  std::string mounts = read_text(proc + "/mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1) << mounts;
  EXPECT_NE(mounts.find(" / / ro,nosuid,nodev,noexec"), std::string::npos) << mounts;
  EXPECT_NE(open((proc + "/root/file").c_str(), O_WRONLY | O_CREAT, 0600), 0);
  EXPECT_EQ(errno, EROFS);
  // One interface, the loopback, and it is down: no route leads anywhere.
  std::string devices = read_text(proc + "/net/dev");
  EXPECT_EQ(std::count(devices.begin(), devices.end(), ':'), 1) << devices;
  std::string routes = read_text(proc + "/net/route");
  EXPECT_LE(std::count(routes.begin(), routes.end(), '\n'), 1) << routes;
}

TEST_P(Jail, HasItsLimits) {
  Prisoner prisoner(GetParam(), wait_for_end);
  prisoner.missing();
  std::string text = read_text("/proc/" + std::to_string(prisoner.pid()) + "/limits");
  auto limit = [&](const std::string& name) -> uint64_t {
    size_t at = text.find(name);
    if (at == std::string::npos) return ~0ull;
    std::istringstream words(text.substr(at + name.size()));
    uint64_t soft = 0, hard = 1;
    words >> soft >> hard;
    EXPECT_EQ(soft, hard) << name << "\n" << text;
    return hard;
  };
  EXPECT_EQ(limit("Max core file size"), 0u);
  EXPECT_LE(limit("Max open files"), kDescriptorsMax);
  EXPECT_EQ(limit("Max file size"), kFileBytesMax);
  if (namespaces()) {
    EXPECT_LE(limit("Max processes"), kThreadsOfUserMax);
  }
}

TEST_P(Jail, EndsWithItsParent) {
  // A parent in between, which ends when the prisoner is in.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  As as = GetParam();
  pid_t between = fork();
  if (between == 0) {
    close(ends[0]);
    auto* prisoner = new Prisoner(as, [](int) {
      for (;;) syscall(SYS_nanosleep, new timespec{60, 0}, nullptr);
    });
    _exit(prisoner->missing().rfind("error", 0) == 0 ? 1 : 0);
  }
  close(ends[1]);
  // The prisoner holds the pipe's other end until it is gone; its own alarm comes later than this.
  pollfd gone = {ends[0], POLLIN, 0};
  EXPECT_EQ(poll(&gone, 1, 5000), 1);
  close(ends[0]);
  int status = 0;
  waitpid(between, &status, 0);
  EXPECT_EQ(status, 0);
}

// --- what still works ---

// More threads than glibc makes arenas without asking how many CPUs there are.
constexpr int kThreads = 12;
constexpr int kRounds = 3;

void work_with_memory_and_threads() {
  std::atomic<int> caught = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&caught] {
      // Arenas that grow and shrink, mappings of their own, and exceptions.
      for (int round = 0; round < kRounds; round++) {
        std::vector<std::vector<char>> blocks;
        for (int n = 0; n < 40; n++) blocks.emplace_back(static_cast<size_t>(n) * 4'000);
        blocks.emplace_back(300 << 10).resize(700 << 10);
        try {
          throw std::runtime_error("thrown");
        } catch (const std::exception&) {
          caught++;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (caught != kThreads * kRounds) _exit(1);
}

void work_with_a_memory_file() {
  int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, 1 << 20) != 0) _exit(2);
  void* at = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) _exit(3);
  *static_cast<char*>(at) = 'x';
  if (lseek(fd, 0, SEEK_DATA) != 0 || lseek(fd, 0, SEEK_HOLE) != 4096) _exit(4);
  munmap(at, 1 << 20);
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0) _exit(5);
  // The limits of what a file may be: an errno, no signal.
  int large = memfd_create("guest", MFD_CLOEXEC);
  if (ftruncate(large, static_cast<off_t>(kFileBytesMax) - 1) != 0) _exit(6);
  if (ftruncate(large, static_cast<off_t>(kFileBytesMax)) != 0) _exit(7);
  if (ftruncate(large, static_cast<off_t>(kFileBytesMax) + 1) == 0 || errno != EFBIG) _exit(8);
  close(large);
  close(fd);
}

std::atomic<bool> rang = false;

void work_with_time() {
  signal(SIGRTMIN + 3, [](int) { rang = true; });
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN + 3;
  event._sigev_un._tid = gettid();
  timer_t timer;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) _exit(9);
  itimerspec soon = {{}, {0, 1'000'000}};
  if (timer_settime(timer, 0, &soon, nullptr) != 0) _exit(10);
  while (!rang) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  timer_delete(timer);
  timespec now;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) _exit(11);
}

TEST_P(Jail, LetsTheExecutorWork) {
  Prisoner prisoner(GetParam(), [](int socket) {
    work_with_memory_and_threads();
    work_with_a_memory_file();
    work_with_time();
    std::fprintf(stderr, "(a line from the jail)\n");
    send_text(socket, "done");
  });
  prisoner.missing();
  EXPECT_EQ(prisoner.receive(), "done");
  EXPECT_EQ(prisoner.end(), "exit 0");
}

TEST_P(Jail, AFailedCheckIsAnAbort) {
  Prisoner prisoner(GetParam(), [](int) { std::abort(); });
  prisoner.missing();
  EXPECT_EQ(prisoner.end(), "signal " + std::to_string(SIGABRT));
}

TEST_P(Jail, HoldsForThreadsAndEndsAllOfThem) {
  Prisoner prisoner(GetParam(), [](int) {
    std::thread guilty([] { syscall(SYS_socket, 2, 1, 0); });
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
  });
  prisoner.missing();
  EXPECT_EQ(prisoner.end(), kKilled);
}

INSTANTIATE_TEST_SUITE_P(As, Jail, testing::ValuesIn(identities()),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// --- kernels that refuse ---

As anyone() { return identities().front(); }

TEST(JailOnOtherKernels, AnOldRootThatCanNotBeLeftIsLeftBehind) {
  Prisoner prisoner(anyone(), wait_for_end,
                    [] { refuse_system_call(SCMP_SYS(pivot_root), EINVAL); });
  EXPECT_EQ(prisoner.missing().find("empty root"), std::string::npos) << prisoner.missing();
  EXPECT_TRUE(std::filesystem::is_empty("/proc/" + std::to_string(prisoner.pid()) + "/root/"));
}

TEST(JailOnOtherKernels, ARefusedMountIsNamed) {
  Prisoner prisoner(anyone(), wait_for_end, [] { refuse_system_call(SCMP_SYS(mount), EACCES); });
  EXPECT_NE(prisoner.missing().find("no empty root directory (Permission denied)"),
            std::string::npos)
      << prisoner.missing();
}

TEST(JailOnOtherKernels, WithoutSeccompItIsNotEntered) {
  Prisoner prisoner(anyone(), wait_for_end, [] { refuse_system_call(SCMP_SYS(seccomp), ENOSYS); });
  EXPECT_EQ(prisoner.missing().rfind("error: the seccomp filter: ", 0), 0u) << prisoner.missing();
}

TEST(JailOnOtherKernels, RootThatCanNotBeGivenUpIsNotTakenIn) {
  if (geteuid() != 0) return;  // nothing to give up
  Prisoner prisoner(As::kRoot, wait_for_end,
                    [] { refuse_system_call(SCMP_SYS(setresuid), EPERM); });
  EXPECT_EQ(prisoner.missing().rfind("error: root's rights can not be given up", 0), 0u)
      << prisoner.missing();
}

// --- every number there is ---

TEST(JailFilter, ForProcessesItHasSocketPairsAndNoKvm) {
  auto end_of = [](void (*attempt)()) {
    pid_t pid = fork();
    if (pid == 0) {
      if (!install_filter(3, Sandboxes::kProcesses)) _exit(2);
      attempt();
      _exit(0);
    }
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  };
  EXPECT_EQ(end_of([] {
              int ends[2];
              char byte = 'x';
              if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) _exit(3);
              send_text(ends[0], "x");
              iovec part = {&byte, 1};
              msghdr message = {};
              message.msg_iov = &part;
              message.msg_iovlen = 1;
              if (recvmsg(ends[1], &message, 0) != 1) _exit(4);
            }),
            0);
  EXPECT_EQ(end_of([] { ioctl(0, KVM_RUN, 0); }), SIGSYS);
  EXPECT_EQ(end_of([] { syscall(SYS_socketpair, AF_INET, SOCK_STREAM, 0, nullptr); }), SIGSYS);
  EXPECT_EQ(end_of([] { syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }), SIGSYS);
  EXPECT_EQ(end_of([] { syscall(SYS_execve, "/bin/sh", nullptr, nullptr); }), SIGSYS);
}

TEST(JailFilter, KillsEachSystemCallThatIsNotOnTheList) {
  std::set<int> listed;
  for (const auto& list : {rules(3), sanitizer_rules()}) {
    for (const Rule& rule : list) listed.insert(rule.system_call);
  }
  for (int number = 0; number < 480; number++) {
    if (listed.contains(number)) continue;
    // uretprobe and uprobe, which the kernel asks no filter about: only its own trampolines, which
    // an administrator's probe puts into a process, can call them.
    if (number == 335 || number == 336) continue;
    pid_t pid = fork();
    if (pid == 0) {
      alarm(10);
      if (!install_filter(3)) _exit(2);
      // Nothing that would do harm, should it get through.
      syscall(number, -1l, -1l, -1l, -1l, -1l, -1l);
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        << number << ": wait status " << status;
  }
}

}  // namespace
}  // namespace sluice::executor::jail
