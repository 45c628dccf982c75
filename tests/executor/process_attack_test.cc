// Programs that try to get out of a process sandbox, or to leave something behind.

#include <algorithm>
#include <csignal>
#include <iterator>
#include <map>
#include <sstream>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/executor/process_harness.h"

namespace sluice::process {
namespace {

TEST(Escape, ForbiddenCallsEndTheProgramWithTheirName) {
  for (auto [how, name] : std::map<std::string, std::string>{{"ptrace", "ptrace (101)"},
                                                             {"process_vm", "process_vm_readv"},
                                                             {"socket", "socket (41)"},
                                                             {"unix", "socketpair (53)"},
                                                             {"mount", "mount (165)"},
                                                             {"umount", "umount2 (166)"},
                                                             {"pivot", "pivot_root (155)"},
                                                             {"chroot", "chroot (161)"},
                                                             {"unshare", "unshare (272)"},
                                                             {"setns", "setns (308)"},
                                                             {"bpf", "bpf (321)"},
                                                             {"keyctl", "keyctl (250)"},
                                                             {"vfork", "vfork (58)"},
                                                             {"newuser", "clone (56)"},
                                                             {"execveat-path", "execveat (322)"}}) {
    CallResult r = Loaded("attack", {how}).call();
    EXPECT_EQ(r.ending.outcome, Outcome::kForbiddenSyscall) << how << ": " << r.output;
    EXPECT_NE(r.ending.message.find(name), std::string::npos) << how << ": " << r.ending.message;
    EXPECT_EQ(r.output, "") << how;
  }
}

TEST(Escape, OtherGatesToTheKernelAreShut) {
  for (const char* how : {"int80", "x32"}) {
    CallResult r = Loaded("attack", {how}).call();
    EXPECT_TRUE(r.ending.outcome == Outcome::kForbiddenSyscall ||
                r.ending.outcome == Outcome::kException)
        << how << ": " << r.ending.message << r.output;
    EXPECT_EQ(r.output, "") << how;
  }
}

TEST(Escape, HostPathsAreNotThere) {
  for (const char* path :
       {"/etc/passwd", "/proc/1/environ", "/proc/self/status", "/proc/1", "/proc/self/fd/0", "/sys",
        "/dev/kvm", "/dev/mem", "/dev/vda", "/dev/pts", "/root", "/home", "/usr", "/tmp/..//etc"}) {
    EXPECT_EQ(Loaded("attack", {"open", path}).call().output, "held\n") << path;
  }
  for (const char* path : {"/dev/x", "/dev/null2", "/dev/stdio/3", "/proc/x", "/proc/self/x"}) {
    EXPECT_EQ(Loaded("attack", {"write", path}).call().output, "held\n") << path;
  }
  EXPECT_EQ(Loaded("attack", {"dotdot"}).call().output,
            Loaded("attack", {"list", "/"}).call().output);
  EXPECT_EQ(Loaded("attack", {"symlink"}).call().output, "held\n");
}

TEST(Escape, RootHoldsNothingButWhatIsPromised) {
  auto words_of = [](const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
    std::sort(words.begin(), words.end());
    return words;
  };
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_of(Loaded("attack", {"list", "/"}).call().output), (Words{"dev", "proc", "tmp"}));
  EXPECT_EQ(words_of(Loaded("attack", {"list", "/dev"}).call().output),
            (Words{"null", "random", "stderr", "stdin", "stdio", "stdout", "urandom", "zero"}));
  EXPECT_EQ(words_of(Loaded("attack", {"list", "/tmp"}).call().output), Words{});
}

TEST(Escape, ProgramHasNoRights) {
  EXPECT_EQ(Loaded("attack", {"identity"}).call().output,
            "uid 1000 gid 1000 pid 2 caps none cores 1\n");
  for (const char* how : {"raise-limit", "setuid", "mknod", "memfd", "clone3"}) {
    CallResult r = Loaded("attack", {how}).call();
    EXPECT_EQ(r.output, "held\n") << how << ": " << r.ending.message;
  }
}

TEST(Escape, NothingButTheStreamsIsOpen) {
  // Of ours: with and without close-on-exec, at low and at high numbers.
  int plain = open("/etc/passwd", O_RDONLY), high = fcntl(plain, F_DUPFD, 500);
  EXPECT_EQ(Loaded("attack", {"descriptors"}).call().output, "looked\n");
  close(high);
  close(plain);
}

TEST(Escape, ProgramCanNotExecuteAgainByTheNumberThatStartedIt) {
  Limits limits;
  for (uint32_t open_files : {16u, 64u, 65u, 300u}) {
    limits.open_files = open_files;
    for (const char* number : {"64", "65", "300"}) {
      if (std::stoul(number) < open_files) continue;
      CallResult r = Loaded("attack", {"execveat", number}, limits).call();
      bool forbidden = r.ending.outcome == Outcome::kForbiddenSyscall;
      EXPECT_TRUE(forbidden || r.output == "held\n") << number << ": " << r.ending.message;
    }
  }
}

// A lock on a file that two sandboxes, or the host, share would be a way to signal.
TEST(Escape, LocksAreNotShared) {
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  struct flock whole {};
  whole.l_type = F_WRLCK;
  ASSERT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  ASSERT_EQ(fcntl(fd, F_SETLK, &whole), 0);
  EXPECT_EQ(Loaded("attack", {"lock"}).call().output, "held\n");
  close(fd);
}

TEST(Escape, InitCanNotBeKilledAndNobodyElseSeen) {
  EXPECT_EQ(Loaded("attack", {"kill-init"}).call().output, "held\n");
  EXPECT_EQ(Loaded("attack", {"kill-parent"}).call().output, "held\n");
  EXPECT_EQ(Loaded("attack", {"kill-all"}).call().output, "held\n");
  CallResult r = Loaded("attack", {"kill-group"}).call();
  EXPECT_EQ(r.ending.outcome, Outcome::kSignal) << r.ending.message;
  EXPECT_EQ(Loaded("empty").call().ending.outcome, Outcome::kOk);
}

TEST(Escape, ProgramWhoseFirstThreadEndedIsEndedByItsTimeout) {
  Limits limits;
  limits.timeout_ms = 200;
  EXPECT_EQ(Loaded("attack", {"linger"}, limits).call().ending.outcome, Outcome::kTimeout);
}

size_t open_descriptors() {
  size_t count = 0;
  for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

size_t mounts_of(int pid) {
  std::string text = proc_text(pid, "mountinfo");
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST(Leak, ThousandsOfCallsLeaveNoProcessDescriptorOrMount) {
  (void)backend();
  std::vector<int> nothing{spawner().pid()};
  ASSERT_TRUE(eventually([&] { return descendants(getpid()) == nothing; }));
  size_t descriptors = open_descriptors(), mounts = mounts_of(getpid());
  {
    Limits limits;
    limits.timeout_ms = 20;
    Loaded good("empty"), forbidden("misbehave", {"fork"}), crash("misbehave", {"null"});
    Loaded flood("misbehave", {"flood-stdout"}, {.output_bytes = 10}),
        linger("attack", {"linger"}, limits);
    for (int i = 0; i < 1000; i++) {
      ASSERT_EQ(good.call().ending.outcome, Outcome::kOk) << i;
      if (i % 5 != 0) continue;
      ASSERT_EQ(forbidden.call().ending.outcome, Outcome::kForbiddenSyscall) << i;
      ASSERT_EQ(crash.call().ending.outcome, Outcome::kException) << i;
      ASSERT_EQ(flood.call().ending.outcome, Outcome::kOutputLimit) << i;
      if (i % 50 != 0) continue;
      ASSERT_EQ(linger.call().ending.outcome, Outcome::kTimeout) << i;
    }
    // A keeper, an init and a program for each of the five.
    EXPECT_TRUE(eventually([&] { return descendants(getpid()).size() <= nothing.size() + 15; }));
  }
  EXPECT_TRUE(eventually([&] { return descendants(getpid()) == nothing; }));
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(mounts_of(getpid()), mounts);
}

// Another executor, in a process of its own: loads a program and says how many processes it has.
// Ends when `until` does.
pid_t start_executor(int report, int until) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  auto mine = Spawner::start({});
  if (!mine) _exit(1);
  auto opened = ProcessBackend::open(**mine);
  if (!opened) _exit(1);
  auto image_bytes = read_guest("empty");
  auto image = (*opened)->load({.name = "empty", .image = image_bytes, .args = {"empty"}}, {});
  if (!image) _exit(1);
  auto sandbox = (*image)->clone();
  if (!sandbox || (*sandbox)->call(bytes_of("x")).ending.outcome != Outcome::kOk) _exit(1);
  char ready = 'r';
  if (write(report, &ready, 1) != 1 || read(until, &ready, 1) < 0) _exit(1);
  // The test has killed the spawner meanwhile.
  auto result = (*sandbox)->call(bytes_of("x"));
  auto again = (*image)->clone();
  auto anew = (*opened)->load({.name = "empty", .image = image_bytes, .args = {"empty"}}, {});
  bool clear = result.ending.outcome == Outcome::kUnavailable && !(*sandbox)->ready() && !again &&
               again.error().code == Code::kUnavailable && !anew &&
               anew.error().message.find("restart the executor") != std::string::npos &&
               (*mine)->is_gone();
  std::fprintf(stderr, "%s\n", result.ending.message.c_str());
  for (const auto& error : {again ? Error{} : again.error(), anew ? Error{} : anew.error()}) {
    std::fprintf(stderr, "%s\n", error.message.c_str());
  }
  _exit(clear ? 0 : 2);
}

// State and parent.
std::pair<char, int> stat_of(int pid) {
  std::string text = proc_text(pid, "stat");
  std::pair<char, int> stat{0, 0};
  if (text.empty()) return stat;
  std::istringstream(text.substr(text.rfind(')') + 1)) >> stat.first >> stat.second;
  return stat;
}

// The kernel's doing, when memory runs out.
TEST(Leak, ProgramKilledFromOutsideIsNobodysFault) {
  Loaded empty("empty");
  EXPECT_EQ(empty.call().ending.outcome, Outcome::kOk);
  auto kill_programs = [&] {
    int killed = 0;
    for (int pid : descendants(getpid())) {
      std::string text = proc_text(pid, "status");
      // The second process of a namespace of its own.
      size_t at = text.find("NSpid:");
      if (at == std::string::npos) continue;
      if (text.substr(at, text.find('\n', at) - at).ends_with("\t2")) {
        killed += kill(pid, SIGKILL) == 0;
      }
    }
    return killed;
  };
  ASSERT_TRUE(eventually([&] { return kill_programs() == 1; }));
  CallResult r = empty.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kUnavailable) << r.ending.message;
  EXPECT_NE(r.ending.message.find("killed from outside"), std::string::npos) << r.ending.message;
  EXPECT_EQ(empty.call().ending.outcome, Outcome::kOk);
}

// Who the machine's first process has not waited for yet does not run either.
bool is_running(int pid) {
  char state = stat_of(pid).first;
  return state != 0 && state != 'Z' && state != 'X';
}

class Killed : public testing::Test {
 protected:
  void SetUp() override {
    (void)backend();
    ASSERT_EQ(pipe2(report_, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(until_, O_CLOEXEC), 0);
    executor_ = start_executor(report_[1], until_[0]);
    char ready;
    close(report_[1]);
    ASSERT_EQ(read(report_[0], &ready, 1), 1);
    // Its spawner, a keeper, an init and a program.
    ASSERT_TRUE(eventually([&] { return descendants(executor_).size() >= 4; }));
    below_ = descendants(executor_);
  }
  void TearDown() override {
    close(report_[0]);
    close(until_[0]);
    close(until_[1]);
  }
  bool all_are_gone() {
    return eventually([&] { return std::none_of(below_.begin(), below_.end(), is_running); });
  }

  std::vector<int> below_;
  int report_[2], until_[2];
  pid_t executor_ = -1;
};

TEST_F(Killed, EverythingEndsWithTheExecutor) {
  kill(executor_, SIGKILL);
  int status;
  waitpid(executor_, &status, 0);
  EXPECT_TRUE(all_are_gone());
}

TEST_F(Killed, SpawnersEndIsAClearErrorAndTakesThePrograms) {
  int spawner_pid = 0;
  for (int pid : below_) {
    if (stat_of(pid).second == executor_) spawner_pid = pid;
  }
  ASSERT_NE(spawner_pid, 0);
  kill(spawner_pid, SIGKILL);
  EXPECT_TRUE(all_are_gone());
  EXPECT_EQ(write(until_[1], "g", 1), 1);
  int status;
  waitpid(executor_, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace sluice::process
