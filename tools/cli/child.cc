#include "tools/cli/child.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/cli/limits.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

constexpr size_t kErrorsKept = 4096;

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_.data(), O_CLOEXEC) != 0) ends_ = {-1, -1};
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void close_end(size_t end) {
    if (ends_[end] >= 0) close(ends_[end]);
    ends_[end] = -1;
  }

 private:
  std::array<int, 2> ends_ = {-1, -1};
};

// Our environment with messages in English, which some of are read, and no questions asked.
std::vector<std::string> child_environment() {
  std::vector<std::string> environment = {"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.starts_with("LC_ALL=") || text.starts_with("LANGUAGE=")) continue;
    if (text.starts_with("DEBIAN_FRONTEND=")) continue;
    environment.emplace_back(text);
  }
  return environment;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

// posix_spawn's error, 0 where `child` runs.
int spawn(std::vector<std::string> command, const std::string& directory, const Pipe& out,
          const Pipe& err, pid_t& child) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.write_end(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write_end(), STDERR_FILENO);
  if (!directory.empty()) posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  // What we put off (SignalsLater) is not put off for it.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> environment = child_environment();
  const int error = posix_spawnp(&child, command[0].c_str(), &actions, &attributes,
                                 pointers(command).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error;
}

// Reads both pipes to their ends; false where `output` would grow over its limit.
bool drain(int out, int err, ChildResult& result) {
  std::array<pollfd, 2> waits = {pollfd{out, POLLIN, 0}, pollfd{err, POLLIN, 0}};
  std::array<char, 64 * 1024> buffer;
  while (waits[0].fd >= 0 || waits[1].fd >= 0) {
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return false;
    for (pollfd& wait : waits) {
      if (wait.fd < 0 || wait.revents == 0) continue;
      const ssize_t got = read(wait.fd, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        wait.fd = -1;
        continue;
      }
      std::string& text = wait.fd == out ? result.output : result.errors;
      text.append(buffer.data(), static_cast<size_t>(got));
      if (result.errors.size() > kErrorsKept) {
        result.errors.erase(0, result.errors.size() - kErrorsKept);
      }
      if (result.output.size() > kChildOutputBytesMax) return false;
    }
  }
  return true;
}

}  // namespace

SignalsLater::SignalsLater() {
  sigset_t later;
  sigemptyset(&later);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&later, signal);
  sigprocmask(SIG_BLOCK, &later, &before_);
}

SignalsLater::~SignalsLater() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

bool SignalsLater::came() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
         sigismember(&pending, SIGHUP) == 1;
}

Expected<ChildResult> run_child(const std::vector<std::string>& command,
                                const std::string& directory) {
  Pipe out;
  Pipe err;
  if (out.read_end() < 0 || err.read_end() < 0) {
    return fail(Code::kIo, fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  }
  pid_t child = 0;
  if (const int error = spawn(command, directory, out, err, child); error != 0) {
    return fail(Code::kUnavailable,
                fmt::format("cannot run {}: {}", command[0], std::strerror(error)));
  }
  out.close_end(1);
  err.close_end(1);
  ChildResult result;
  const bool whole = drain(out.read_end(), err.read_end(), result);
  // What still writes ends by that.
  out.close_end(0);
  err.close_end(0);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!whole) {
    return fail(Code::kLimit, fmt::format("{} prints more than {}", command[0],
                                          human_bytes(kChildOutputBytesMax)));
  }
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

Expected<std::string> output_of(const std::vector<std::string>& command,
                                const std::string& directory) {
  auto result = run_child(command, directory);
  if (!result) return std::unexpected(result.error());
  if (result->status == 0) return std::move(result->output);
  std::string why = result->errors;
  why.erase(std::min(why.size(), why.find_last_not_of('\n') + 1));
  return fail(Code::kIo, fmt::format("{} ended with status {}{}{}", command[0], result->status,
                                     why.empty() ? "" : ": ", why));
}

}  // namespace sluice::cli
