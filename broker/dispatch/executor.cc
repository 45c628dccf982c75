#include "broker/dispatch/executor.h"

#include <algorithm>
#include <cstring>

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "broker/dispatch/limits.h"

namespace sluice::broker {

namespace {

using namespace dispatch;

// The descriptor that the executor finds its socket at.
constexpr int kSocketFd = 3;

// What the broker was started with may hold secrets, and is nothing to an executor; but for a
// sanitizer's options.
std::vector<char*> executor_environment() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; entry++) {
    std::string_view text = *entry;
    for (std::string_view name : {"ASAN_OPTIONS=", "TSAN_OPTIONS=", "UBSAN_OPTIONS="}) {
      if (text.starts_with(name)) kept.push_back(*entry);
    }
  }
  kept.push_back(nullptr);
  return kept;
}

}  // namespace

Executor::Executor(uv_loop_t* loop, std::string program, std::vector<std::string> arguments,
                   net::FlushList& flushes, std::function<void()> changed)
    : loop_(loop),
      program_(std::move(program)),
      arguments_(std::move(arguments)),
      flushes_(flushes),
      changed_(std::move(changed)),
      restart_timer_(loop, [this] { spawn(); }) {}

Executor::~Executor() { stop(); }

void Executor::start() {
  set_state(State::kStarting, "the executor is starting");
  spawn();
}

void Executor::when_up(std::function<void()> callback) {
  if (on_its_way_) {
    waiters_.push_back(std::move(callback));
  } else {
    callback();
  }
}

void Executor::tell_waiters() {
  on_its_way_ = false;
  for (auto& waiter : std::exchange(waiters_, {})) waiter();
}

void Executor::spawn() {
  on_its_way_ = true;
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    failed_to_start(std::strerror(errno));
    return;
  }
  int log_fd = -1;
  auto log = ExecutorLog::open(loop_, flushes_, log_fd);
  if (!log) {
    close(sockets[0]);
    close(sockets[1]);
    failed_to_start(log.error().message);
    return;
  }
  log_ = std::move(*log);
  int status = spawn_process(sockets[1], log_fd);
  close(sockets[1]);
  close(log_fd);
  if (status != 0) {
    close(sockets[0]);
    uv_close(reinterpret_cast<uv_handle_t*>(process_),
             [](uv_handle_t* handle) { delete reinterpret_cast<uv_process_t*>(handle); });
    process_ = nullptr;
    failed_to_start(uv_strerror(status));
    return;
  }
  limit_resources();
  auto stream = net::Stream::adopt_unix(loop_, sockets[0], flushes_);
  if (!stream) {
    close(sockets[0]);
    uv_process_kill(process_, SIGKILL);
    return;  // exited() follows
  }
  stream_ = std::move(*stream);
  started_at_ms_ = uv_now(loop_);
  stream_->start({.on_data = [this](amqp::Bytes bytes) { return on_data(bytes); },
                  // Its end follows; the process is what is watched.
                  .on_end =
                      [this](std::string_view) {
                        if (process_ != nullptr) uv_process_kill(process_, SIGKILL);
                      },
                  .on_drained = [this] { send_pieces(); }});
}

int Executor::spawn_process(int socket_fd, int log_fd) {
  uv_stdio_container_t stdio[kSocketFd + 1] = {};
  stdio[0].flags = UV_IGNORE;
  for (int fd : {1, 2}) {
    stdio[fd].flags = UV_INHERIT_FD;
    stdio[fd].data.fd = log_fd;
  }
  stdio[kSocketFd].flags = UV_INHERIT_FD;
  stdio[kSocketFd].data.fd = socket_fd;
  std::vector<char*> args = {const_cast<char*>("sluice-executor")};
  for (const std::string& argument : arguments_) {
    args.push_back(const_cast<char*>(argument.c_str()));
  }
  args.push_back(nullptr);
  auto environment = executor_environment();
  uv_process_options_t options{};
  options.file = program_.c_str();
  options.args = args.data();
  options.env = environment.data();
  options.stdio = stdio;
  options.stdio_count = kSocketFd + 1;
  options.exit_cb = [](uv_process_t* process, int64_t status, int signal) {
    auto* self = static_cast<Executor*>(process->data);
    uv_close(reinterpret_cast<uv_handle_t*>(process),
             [](uv_handle_t* handle) { delete reinterpret_cast<uv_process_t*>(handle); });
    if (self != nullptr) self->exited(status, signal);
  };
  process_ = new uv_process_t;
  process_->data = this;
  return uv_spawn(loop_, process_, &options);
}

// Before it is told anything, so before anything hostile runs in it.
void Executor::limit_resources() {
  auto limited = cgroup_.make(
      {.memory_bytes = uv_get_total_memory() / kMachineMemoryParts * kExecutorMemoryParts,
       .tasks = kExecutorTasksMax});
  auto added = cgroup_.add(process_->pid);
  std::string trouble = !limited ? limited.error().message : !added ? added.error().message : "";
  if (!trouble.empty() && trouble != cgroup_trouble_) spdlog::warn("the executor: {}", trouble);
  cgroup_trouble_ = std::move(trouble);
}

void Executor::failed_to_start(std::string_view why) {
  std::string reason = "cannot start the executor " + program_ + ": " + std::string(why);
  if (reason != reason_) spdlog::error("{}", reason);
  set_state(State::kStarting, reason);
  restart_timer_.start(kRestartMaxMs);
  tell_waiters();
}

void Executor::exited(int64_t status, int signal) {
  process_ = nullptr;
  // Before its first word: it may never get there. After: it is as good as up again.
  bool was_up = state_ != State::kStarting;
  std::string how = signal != 0 ? "was killed by signal " + std::to_string(signal) +
                                      (signal == SIGSYS ? " (it tried what its jail forbids)" : "")
                                : "ended with status " + std::to_string(status);
  if (stopping_) {
    set_state(State::kStopped, "the broker stops");
  } else {
    bool healthy = uv_now(loop_) - started_at_ms_ >= kHealthyMs;
    restart_after_ms_ =
        healthy ? kRestartMinMs : std::clamp(restart_after_ms_ * 2, kRestartMinMs, kRestartMaxMs);
    spdlog::error("the executor {}, {} calls were in flight; starting it again in {} ms", how,
                  calls_in_flight_.size(), restart_after_ms_);
    ++restarts_;
    set_state(State::kStarting, "the executor " + how + " and is being started again");
    restart_timer_.start(restart_after_ms_);
  }
  stream_.reset();
  lose("the executor " + how + " during the call");
  if (was_up) {
    on_its_way_ = !stopping_;
  } else {
    tell_waiters();
  }
}

// Ends all that waits for an answer. The callbacks may make new calls: not to this executor, whose
// state has changed before.
void Executor::lose(const std::string& why) {
  auto calls = std::exchange(calls_in_flight_, {});
  auto loads = std::exchange(loads_in_flight_, {});
  outgoing_.clear();
  memory_bytes_ = 0;
  for (auto& [id, done] : loads) {
    done({.outcome = schema::Outcome::unavailable, .message = why});
  }
  for (auto& [id, done] : calls) {
    done({.outcome = schema::Outcome::internal, .message = why, .executor_lost = true});
  }
}

void Executor::stop() {
  stopping_ = true;
  restart_timer_.stop();
  int ended = pid();
  if (process_ != nullptr) {
    process_->data = nullptr;
    uv_process_kill(process_, SIGKILL);
    process_ = nullptr;
  }
  cgroup_.remove(ended);
  log_.reset();
  stream_.reset();
  calls_in_flight_.clear();
  loads_in_flight_.clear();
  outgoing_.clear();
  waiters_.clear();
  set_state(State::kStopped, "the broker stops");
}

void Executor::set_state(State state, std::string reason) {
  bool changed = state != state_;
  state_ = state;
  reason_ = std::move(reason);
  if (changed) changed_();
}

}  // namespace sluice::broker
