#include "executor/process/keeper.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstring>
#include <iterator>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor/process/filter.h"
#include "executor/process/init.h"
#include "executor/process/limits.h"
#include "executor/process/root.h"
#include "executor/process/unpack.h"

namespace sluice::process {
namespace {

std::unexpected<Error> refused(const char* what) {
  return fail(Code::kUnavailable, fmt::format("{}: {}", what, std::strerror(errno)));
}

// A file's bytes, mapped while it lives.
class Mapped {
 public:
  explicit Mapped(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size <= 0) return;
    size_ = static_cast<size_t>(status.st_size);
    at_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at_ == MAP_FAILED) size_ = 0;
  }
  ~Mapped() {
    if (size_ > 0) munmap(at_, size_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  template <typename T>
  std::span<const T> as() const {
    return {static_cast<const T*>(at_), size_};
  }

 private:
  void* at_ = nullptr;
  size_t size_ = 0;
};

class Keeper {
 public:
  Keeper(KeeperParts parts, int proc, int spawner)
      : parts_(std::move(parts)),
        proc_(proc),
        spawner_(spawner),
        self_(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0))) {}

  Expected<void> prepare();
  [[noreturn]] void serve();

 private:
  Expected<void> enter_namespaces();
  Expected<void> open_image();
  Expected<const std::vector<sock_filter>*> filter(uint32_t watch);
  void start(const StartRequest& request, Fd control);

  KeeperParts parts_;
  int proc_;
  int spawner_;
  Fd self_;
  Config config_;
  int exec_fd_ = 0;
  std::array<std::vector<sock_filter>, 4> filters_;  // by what they watch
};

Expected<void> Keeper::enter_namespaces() {
  uint32_t uid = geteuid(), gid = getegid();
  if (unshare(CLONE_NEWUSER) != 0) {
    return fail(Code::kUnavailable,
                fmt::format("no user namespace can be made ({}); allow them to unprivileged users: "
                            "sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces "
                            "above 0, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0",
                            std::strerror(errno)));
  }
  if (auto mapped = map_ids(proc_, 0, uid, gid); !mapped) return mapped;
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) != 0) {
    return refused("a namespace could not be made");
  }
  sethostname("sluice", 6);
  return {};
}

Expected<void> Keeper::open_image() {
  if (!parts_.image && !config_.image_path.empty()) {
    // Resolved in the root file system, which is all there is.
    parts_.image = Fd(open(config_.image_path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status;
    if (!parts_.image || fstat(parts_.image.get(), &status) != 0) {
      return fail(Code::kInvalid, fmt::format("the root file system has no program {}: {}",
                                              config_.image_path, std::strerror(errno)));
    }
    if (!S_ISREG(status.st_mode)) {
      return fail(Code::kInvalid,
                  fmt::format("{} in the root file system is no program", config_.image_path));
    }
  }
  return {};
}

Expected<void> Keeper::prepare() {
  {
    Mapped text(parts_.config.get());
    auto config = decode(text.as<char>());
    if (!config) return fail(Code::kInternal, "the keeper was told nonsense");
    config_ = std::move(*config);
    parts_.config.reset();
  }
  exec_fd_ = static_cast<int>(std::max(config_.limits.open_files, kExecDescriptorMin));
  if (auto entered = enter_namespaces(); !entered) return entered;
  if (auto entered = enter_empty_root(); !entered) return entered;
  if (parts_.rootfs) {
    Mapped archive(parts_.rootfs.get());
    if (auto unpacked = unpack_tar(archive.as<uint8_t>()); !unpacked) return unpacked;
  }
  if (auto opened = open_image(); !opened) return opened;
  bool in_rootfs = config_.image_path.starts_with('/');
  return seal_root(in_rootfs ? config_.image_path : "/" + config_.name);
}

Expected<const std::vector<sock_filter>*> Keeper::filter(uint32_t watch) {
  auto& made = filters_[watch & (kWatchStdin | kWatchProtocol)];
  if (made.empty()) {
    uint64_t mapping = std::max(kWatchedMappingBytes, config_.limits.memory_bytes / 16);
    auto filter = make_filter(watch, exec_fd_, mapping);
    if (!filter) return std::unexpected(filter.error());
    made = std::move(*filter);
  }
  return &made;
}

void Keeper::start(const StartRequest& request, Fd control) {
  Report report;
  auto rules = filter(request.watch);
  if (rules) {
    InitPlan plan{.config = &config_,
                  .has_rootfs = static_cast<bool>(parts_.rootfs),
                  .proc = proc_,
                  .keeper = self_.get(),
                  .image = parts_.image.get(),
                  .exec_fd = exec_fd_,
                  .filter = *rules,
                  .watch = request.watch};
    long pid = syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, nullptr,
                       nullptr, nullptr, nullptr);
    if (pid == 0) {
      parts_.socket.reset();
      signal(SIGCHLD, SIG_DFL);
      run_init(plan, std::move(control));
    }
    if (pid > 0) return;
    report.code = Code::kUnavailable;
    std::strncpy(report.text,
                 fmt::format("no process could be made: {}", std::strerror(errno)).c_str(),
                 sizeof report.text - 1);
  } else {
    report.code = rules.error().code;
    std::strncpy(report.text, rules.error().message.c_str(), sizeof report.text - 1);
  }
  (void)send_value(control.get(), report);
}

void Keeper::serve() {
  for (;;) {
    // A death signal alone would miss a parent that ended before it was asked for.
    pollfd polled[] = {{parts_.socket.get(), POLLIN, 0}, {spawner_, POLLIN, 0}};
    if (poll(polled, std::size(polled), -1) < 0 && errno != EINTR) _exit(1);
    if (polled[1].revents != 0) _exit(1);
    if (polled[0].revents == 0) continue;
    StartRequest request;
    std::vector<Fd> fds;
    if (!receive_value(parts_.socket.get(), request, fds)) _exit(0);
    if (fds.size() == 1) start(request, std::move(fds[0]));
  }
}

}  // namespace

void run_keeper(KeeperParts parts, int proc, int spawner) {
  // Names in archives are UTF-8.
  setlocale(LC_CTYPE, "C.UTF-8");
  int socket = parts.socket.get();
  Keeper keeper(std::move(parts), proc, spawner);
  auto prepared = keeper.prepare();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Report report;
  if (prepared) {
    report.kind = Report::kPrepared;
  } else {
    report.code = prepared.error().code;
    std::strncpy(report.text, prepared.error().message.c_str(), sizeof report.text - 1);
  }
  if (!send_value(socket, report) || !prepared) _exit(1);
  keeper.serve();
}

}  // namespace sluice::process
