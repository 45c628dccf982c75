#include "executor/process/init.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "executor/process/filter.h"
#include "executor/process/limits.h"
#include "executor/process/root.h"
#include "executor/vmm/limits.h"

namespace sluice::process {
namespace {

constexpr int kProtocolFd = 3;
constexpr uint32_t kInsideId = 1000;
constexpr size_t kExecStackBytes = 64 << 10;

int64_t ns_of(const timespec& t) { return t.tv_sec * 1'000'000'000ll + t.tv_nsec; }

// What the program's process does between clone and exec. It shares its init's memory and
// descriptors until the exec; the init stands still.
struct Exec {
  const InitPlan* plan;
  char** args;
  char** env;
  char proc_name[32] = {};  // its folder in the host's /proc
  int listener = -1;
  int error = 0;
};

bool set(int resource, uint64_t value) {
  rlimit limit{value, value};
  return setrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0;
}

bool set_limits(const executor::Limits& l) {
  uint64_t stack = std::min(vmm::kStackBytesMax, l.memory_bytes / vmm::kStackShare);
  // One more than threads: the init is the same user's. Core dumps: a limit of 1 also holds where
  // the kernel pipes them to a program, which 0 does not.
  return set(RLIMIT_NPROC, uint64_t{l.threads} + 1) && set(RLIMIT_CORE, 1) &&
         set(RLIMIT_MEMLOCK, 0) && set(RLIMIT_MSGQUEUE, 0) && set(RLIMIT_NICE, 0) &&
         set(RLIMIT_RTPRIO, 0) && set(RLIMIT_STACK, stack) && set(RLIMIT_AS, l.memory_bytes);
}

int exec_program(void* argument) {
  Exec& exec = *static_cast<Exec*>(argument);
  const InitPlan& plan = *exec.plan;
  ssize_t got = readlinkat(plan.proc, "self", exec.proc_name, sizeof exec.proc_name - 1);
  sock_fprog program{static_cast<unsigned short>(plan.filter->size()),
                     const_cast<sock_filter*>(plan.filter->data())};
  if (got <= 0 || !set_limits(plan.config->limits)) {
    exec.error = errno;
    _exit(0);
  }
  exec.listener = static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
  // Last, since the listener is a descriptor too.
  if (exec.listener >= 0 && set(RLIMIT_NOFILE, plan.config->limits.open_files)) {
    syscall(SYS_execveat, plan.exec_fd, "", exec.args, exec.env, AT_EMPTY_PATH);
  }
  exec.error = errno;
  // Another status would be the init's to look at, which waits for this process.
  _exit(0);
}

class Init {
 public:
  Init(const InitPlan& plan, Fd control) : plan_(plan), control_(std::move(control)) {}

  Expected<void> prepare();
  Expected<void> start_program();
  // Until the program is gone.
  Ended watch();

 private:
  Expected<void> drop_rights();
  void tell_of_input(int64_t where);
  void serve_notification();
  void serve_control();
  bool answer(uint64_t id, int error);
  void kill_for(Cause cause);
  uint64_t proc_number(const char* file, int field);
  bool files_are_full();
  int poll_ms();
  int64_t cpu_ns();

  const InitPlan& plan_;
  Fd control_;
  Fd tmpfs_;
  Fd listener_;
  Fd named_;
  Fd pidfd_;
  std::string proc_name_;
  pid_t pid_ = -1;
  bool wanted_input_ = false;
  int64_t cpu_end_ns_ = 0;  // of the program's CPU time; 0: no limit
  Ended ended_;
};

// The program's descriptors take their places 0 to 3 first, so that they are nobody else's.
Expected<void> Init::prepare() {
  auto root = make_private_root(plan_.config->limits.tmpfs_bytes, plan_.has_rootfs);
  if (!root) return std::unexpected(root.error());
  tmpfs_ = std::move(root->tmpfs);
  Pair protocol;
  if (plan_.watch & kWatchProtocol) {
    auto made = make_pair(SOCK_STREAM);
    if (!made) return std::unexpected(made.error());
    protocol = std::move(*made);
  }
  Report started;
  started.kind = Report::kStarted;
  std::vector<int> fds{root->stdin_write.get(), root->stdout_read.get(), root->stderr_read.get()};
  if (protocol.ours) {
    int flags = fcntl(protocol.ours.get(), F_GETFL);
    fcntl(protocol.ours.get(), F_SETFL, flags | O_NONBLOCK);
    fds.push_back(protocol.ours.get());
  }
  if (auto sent = send_value(control_.get(), started, fds); !sent) return sent;
  if (plan_.watch & kWatchName) {
    named_ = Fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!named_ || inotify_add_watch(named_.get(), "/dev/stdio/0", IN_OPEN) < 0) {
      return fail(Code::kUnavailable, fmt::format("/dev/stdin can not be watched: {}; raise "
                                                  "fs.inotify.max_user_instances",
                                                  strerror(errno)));
    }
  }

  close_range(kProtocolFd + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  bool placed = dup2(root->stdin_read.get(), 0) == 0 && dup2(root->stdout_write.get(), 1) == 1 &&
                dup2(root->stderr_write.get(), 2) == 2;
  if (placed && protocol.theirs) placed = dup2(protocol.theirs.get(), kProtocolFd) == kProtocolFd;
  if (!placed || dup3(plan_.image, plan_.exec_fd, O_CLOEXEC) != plan_.exec_fd) {
    return fail(Code::kUnavailable,
                fmt::format("the program's descriptors could not be made: {}", strerror(errno)));
  }
  return {};
}

Expected<void> Init::drop_rights() {
  auto refused = [](const char* what) {
    return fail(Code::kUnavailable, fmt::format("{}: {}", what, std::strerror(errno)));
  };
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability) != 0) return refused("the bounding set stays");
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  if (syscall(SYS_capset, &header, none) != 0) return refused("capabilities stay");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return refused("no_new_privs");
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return refused("the parent's death signal");
  return {};
}

Expected<void> Init::start_program() {
  if (auto dropped = drop_rights(); !dropped) return dropped;
  // What the spawner ignores a program would ignore, too.
  signal(SIGPIPE, SIG_DFL);

  std::vector<std::string> env_texts = plan_.config->env;
  if (plan_.watch & kWatchProtocol) env_texts.push_back("SLUICE_FD=3");
  std::vector<char*> args, env;
  for (const auto& text : plan_.config->args) args.push_back(const_cast<char*>(text.c_str()));
  for (const auto& text : env_texts) env.push_back(const_cast<char*>(text.c_str()));
  args.push_back(nullptr);
  env.push_back(nullptr);
  Exec exec{&plan_, args.data(), env.data()};

  static char stack[kExecStackBytes] alignas(16);
  int pidfd = -1;
  pid_ = clone(exec_program, stack + sizeof stack,
               CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD | SIGCHLD, &exec, &pidfd);
  if (pid_ < 0) {
    return fail(Code::kUnavailable,
                fmt::format("no process could be made: {}", std::strerror(errno)));
  }
  pidfd_ = Fd(pidfd);
  listener_ = Fd(exec.listener);
  proc_name_ = exec.proc_name;
  if (exec.error != 0) {
    return fail(Code::kInvalid, fmt::format("the image can not be run: {}; is it an x86-64 ELF "
                                            "executable, with its interpreter in the root file "
                                            "system?",
                                            std::strerror(exec.error)));
  }
  // Left to the program alone, so that the executor sees it close them.
  for (int fd = 0; fd <= kProtocolFd; fd++) {
    if (fd < kProtocolFd || (plan_.watch & kWatchProtocol)) close(fd);
  }
  close(plan_.exec_fd);
  prctl(PR_SET_DUMPABLE, 0);
  return {};
}

// A number in one of its files in /proc that anybody may read; 0 where that fails.
uint64_t Init::proc_number(const char* file, int field) {
  Fd at(openat(plan_.proc, (proc_name_ + "/" + file).c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024];
  ssize_t got = at ? read(at.get(), text, sizeof text - 1) : -1;
  if (got <= 0) return 0;
  text[got] = 0;
  // The program chooses the name in stat, in parentheses.
  char* from = std::strrchr(text, ')');
  from = from != nullptr ? from + 2 : text;
  for (int i = 0; from != nullptr && i < field; i++) {
    from = std::strchr(from, ' ');
    if (from != nullptr) from++;
  }
  return from != nullptr ? std::strtoull(from, nullptr, 10) : 0;
}

bool Init::files_are_full() {
  Fd folder(openat(plan_.proc, (proc_name_ + "/fd").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return false;
  DIR* entries = fdopendir(folder.release());
  uint32_t count = 0;
  while (readdir(entries) != nullptr) count++;
  closedir(entries);
  return count >= plan_.config->limits.open_files + 2;  // "." and ".."
}

int64_t Init::cpu_ns() {
  clockid_t clock;
  timespec now{};
  if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &now) != 0) return 0;
  return ns_of(now);
}

void Init::kill_for(Cause cause) {
  if (ended_.cause == Cause::kItself) ended_.cause = cause;
  kill(pid_, SIGKILL);
}

bool Init::answer(uint64_t id, int error) {
  seccomp_notif_resp response{};
  response.id = id;
  response.error = -error;
  if (error == 0) response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  return ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) == 0;
}

void Init::tell_of_input(int64_t where) {
  if (wanted_input_) return;
  wanted_input_ = true;
  Report report;
  report.kind = Report::kWantsInput;
  report.value = where;
  report.ended.rss_peak_bytes = proc_number("statm", 1) * vmm::kPageBytes;
  if (!send_value(control_.get(), report)) kill_for(Cause::kKilled);
}

// A call may always go on by its registers' values, which nobody can change meanwhile. What it
// points to is not looked at.
void Init::serve_notification() {
  seccomp_notif n{};
  if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &n) != 0) return;
  uint64_t args[6];
  std::copy(std::begin(n.data.args), std::end(n.data.args), args);
  uint64_t number = static_cast<uint32_t>(n.data.nr);
  int error = 0;
  Told what = told(number, args, plan_.watch, error);
  const executor::Limits& limits = plan_.config->limits;
  switch (what) {
    case Told::kWaitsForInput:
    case Told::kPolls:
      tell_of_input(what == Told::kPolls ? kSeveral : static_cast<int64_t>(args[0] & 0xffffffff));
      break;
    case Told::kMaps:
    case Told::kGrowsMapping: {
      uint64_t bytes = what == Told::kMaps ? args[1] : args[2] - std::min(args[1], args[2]);
      uint64_t mapped = proc_number("statm", 0) * vmm::kPageBytes;
      if (mapped >= limits.memory_bytes || bytes > limits.memory_bytes - mapped) {
        ended_.refused_bytes = bytes;
      }
      break;
    }
    case Told::kMakesThread:
      // The 17th field after the name.
      if (proc_number("stat", 17) >= limits.threads) ended_.refused_thread = 1;
      break;
    case Told::kFails:
      ended_.sent_signal |= number != SYS_exit_group;
      if (files_are_full()) ended_.files_full = 1;
      break;
    case Told::kRefused:
      break;
    case Told::kForbidden:
      ended_.syscall = number;
      kill_for(Cause::kForbidden);
      return;
  }
  answer(n.id, error);
}

void Init::serve_control() {
  ControlRequest request;
  std::vector<Fd> fds;
  if (!receive_value(control_.get(), request, fds)) {
    // The executor is gone, or gave it up: so does everything here.
    kill_for(Cause::kKilled);
    control_.reset();
    return;
  }
  if (request.kind == ControlRequest::kKill) {
    kill_for(Cause::kKilled);
  } else if (request.cpu_ms != 0) {
    cpu_end_ns_ = cpu_ns() + request.cpu_ms * 1'000'000ll;
  }
}

// CPU time runs at most as many times faster than the clock as there are CPUs.
int Init::poll_ms() {
  if (cpu_end_ns_ == 0) return -1;
  int64_t left = cpu_end_ns_ - cpu_ns();
  if (left <= 0) {
    kill_for(Cause::kCpu);
    cpu_end_ns_ = 0;
    return -1;
  }
  static const long cpus = std::max(1l, sysconf(_SC_NPROCESSORS_ONLN));
  return static_cast<int>(std::clamp<int64_t>(left / cpus / 1'000'000, 1, 1000));
}

Ended Init::watch() {
  int keeper_fd = plan_.keeper;
  for (;;) {
    pollfd polled[] = {{pidfd_.get(), POLLIN, 0},
                       {listener_.get(), POLLIN, 0},
                       {control_.get(), POLLIN, 0},
                       {named_.get(), POLLIN, 0},
                       {keeper_fd, POLLIN, 0}};
    if (poll(polled, std::size(polled), poll_ms()) < 0 && errno != EINTR) break;
    if (polled[0].revents != 0) break;
    if (polled[1].revents & POLLIN) serve_notification();
    // No thread is left that could be told of.
    if (polled[1].revents & (POLLHUP | POLLERR)) listener_.reset();
    if (polled[2].revents != 0) serve_control();
    if (polled[4].revents != 0) {
      // A death signal alone would miss a keeper that ended before it was asked for.
      kill_for(Cause::kKilled);
      keeper_fd = -1;
    }
    if (polled[3].revents != 0) {
      named_.reset();
      tell_of_input(kByName);
    }
  }
  // Also those that another thread of the program left behind; there can be only one.
  rusage usage{};
  int status = 0;
  while (wait4(pid_, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  ended_.wait_status = status;
  ended_.rss_peak_bytes = static_cast<uint64_t>(usage.ru_maxrss) << 10;
  struct statfs space {};
  if (fstatfs(tmpfs_.get(), &space) == 0) {
    ended_.tmpfs_full = space.f_bfree == 0 || space.f_ffree == 0;
  }
  return ended_;
}

}  // namespace

void run_init(const InitPlan& plan, Fd control) {
  int control_fd = control.get();
  Init init(plan, std::move(control));
  // kill(0) reaches the whole process group, also outside of the namespace.
  setsid();
  auto ready = map_ids(plan.proc, kInsideId, 0, 0);
  if (ready) ready = init.prepare();
  if (ready) ready = init.start_program();
  Report report;
  if (ready) {
    report.kind = Report::kEnded;
    report.ended = init.watch();
  } else {
    report.code = ready.error().code;
    std::strncpy(report.text, ready.error().message.c_str(), sizeof report.text - 1);
  }
  // With its last process all that is in the namespace ends.
  (void)send_value(control_fd, report);
  _exit(0);
}

}  // namespace sluice::process
