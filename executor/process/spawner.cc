#include "executor/process/spawner.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/process/keeper.h"
#include "executor/process/limits.h"

namespace sluice::process {
namespace {

constexpr int kSocket = 3;
constexpr int kProc = 4;
constexpr int kFirstOther = 5;

// Leaves what only root has. A change of ids takes away the right to write to the own /proc files,
// which the ids of user namespaces need.
bool become(const Spawner::Options& options) {
  if (geteuid() == 0 &&
      (setgroups(0, nullptr) != 0 || setresgid(options.gid, options.gid, options.gid) != 0 ||
       setresuid(options.uid, options.uid, options.uid) != 0)) {
    return false;
  }
  return prctl(PR_SET_DUMPABLE, 1) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_PDEATHSIG, SIGKILL) == 0;
}

// What the executor has open is not for those who run programs.
bool keep_only(int socket) {
  Fd proc(open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!proc || !null || dup2(null.get(), 0) != 0 || dup2(null.get(), 1) != 1) return false;
  // Twice, since either may lie where the other goes.
  int socket_above = fcntl(socket, F_DUPFD_CLOEXEC, kFirstOther);
  int proc_above = fcntl(proc.get(), F_DUPFD_CLOEXEC, kFirstOther);
  proc.release();
  null.release();
  if (socket_above < 0 || proc_above < 0) return false;
  if (dup3(socket_above, kSocket, O_CLOEXEC) < 0 || dup3(proc_above, kProc, O_CLOEXEC) < 0) {
    return false;
  }
  return close_range(kFirstOther, ~0u, 0) == 0;
}

[[noreturn]] void run_spawner(int socket, const Spawner::Options& options, pid_t parent) {
  prctl(PR_SET_NAME, "sluice-spawner");
  for (int i = 1; i < NSIG; i++) signal(i, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Children are not waited for, they report to the executor.
  signal(SIGCHLD, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  umask(022);
  // A program is executed by a descriptor beyond its own limit.
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  if (!keep_only(socket) || !become(options) || getppid() != parent) _exit(1);
  int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  if (self < 0) _exit(1);
  for (;;) {
    LoadRequest request;
    std::vector<Fd> fds;
    if (!receive_value(kSocket, request, fds)) _exit(0);
    size_t wanted = 2 + (request.has_image ? 1 : 0) + (request.has_rootfs ? 1 : 0);
    if (fds.size() != wanted) continue;
    pid_t pid = fork();
    if (pid != 0) continue;  // a keeper that could not be made shows as a closed socket
    // The number stays taken: it is the one of programs' protocol descriptor.
    if (dup3(0, kSocket, O_CLOEXEC) != kSocket) _exit(1);
    KeeperParts parts{.socket = std::move(fds[0]), .config = std::move(fds[1])};
    size_t next = 2;
    if (request.has_image) parts.image = std::move(fds[next++]);
    if (request.has_rootfs) parts.rootfs = std::move(fds[next]);
    run_keeper(std::move(parts), kProc, self);
  }
}

std::unexpected<Error> gone() {
  return fail(Code::kUnavailable,
              "the spawner of sandbox processes has ended; restart the executor");
}

}  // namespace

Expected<std::unique_ptr<Spawner>> Spawner::start(const Options& options) {
  auto pair = make_pair(SOCK_SEQPACKET);
  if (!pair) return std::unexpected(pair.error());
  pid_t self = getpid();
  pid_t pid = fork();
  if (pid == 0) run_spawner(pair->theirs.get(), options, self);
  if (pid < 0) {
    return fail(Code::kUnavailable,
                fmt::format("the spawner could not be started: {}", std::strerror(errno)));
  }
  return std::unique_ptr<Spawner>(new Spawner(std::move(pair->ours), pid));
}

Spawner::~Spawner() {
  socket_.reset();
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool Spawner::is_gone() const {
  pollfd polled{socket_.get(), 0, 0};
  return poll(&polled, 1, 0) > 0 && (polled.revents & (POLLHUP | POLLERR)) != 0;
}

Expected<Fd> Spawner::prepare(const Config& config, std::span<const uint8_t> image,
                              std::span<const uint8_t> rootfs) const {
  std::string text = encode(config);
  auto config_file =
      sealed_file("config", {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  auto pair = make_pair(SOCK_SEQPACKET);
  if (!config_file) return std::unexpected(config_file.error());
  if (!pair) return std::unexpected(pair.error());
  LoadRequest request;
  std::vector<int> fds{pair->theirs.get(), config_file->get()};
  Fd image_file, rootfs_file;
  for (auto [bytes, to, flag, name] :
       {std::tuple{image, &image_file, &request.has_image, "image"},
        std::tuple{rootfs, &rootfs_file, &request.has_rootfs, "rootfs"}}) {
    if (bytes.empty()) continue;
    auto file = sealed_file(name, bytes);
    if (!file) return std::unexpected(file.error());
    *to = std::move(*file);
    *flag = 1;
    fds.push_back(to->get());
  }
  if (!send_value(socket_.get(), request, fds)) return gone();
  // Only the keeper may hold it now, so that its end shows.
  pair->theirs.reset();

  pollfd polled{pair->ours.get(), POLLIN, 0};
  int ready;
  do {
    ready = poll(&polled, 1, static_cast<int>(kPrepareNs / 1'000'000));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    return fail(Code::kLimit, fmt::format("the image was not prepared within {} seconds",
                                          kPrepareNs / 1'000'000'000));
  }
  Report report;
  std::vector<Fd> none;
  if (!receive_value(pair->ours.get(), report, none)) {
    if (is_gone()) return gone();
    return fail(Code::kUnavailable, "the image's process ended while it was prepared");
  }
  if (report.kind != Report::kPrepared) {
    report.text[sizeof report.text - 1] = 0;
    return fail(report.code, report.text);
  }
  return std::move(pair->ours);
}

}  // namespace sluice::process
