#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <uv.h>

#include "broker/amqp/wire.h"
#include "broker/dispatch/executor_cgroup.h"
#include "broker/dispatch/executor_log.h"
#include "broker/net/handles.h"
#include "broker/net/stream.h"
#include "schemas/executor_generated.h"

namespace sluice::broker {

// How a call ended; schemas/executor.fbs tells the fields.
struct CallResult {
  schema::Outcome outcome = schema::Outcome::internal;
  int exit_status = 0;
  std::string message;
  std::string output;
  std::string log;
  uint32_t run_us = 0;
  uint32_t exits = 0;
  uint32_t dirty_pages = 0;
  // The executor ended during the call, through no known fault of the function.
  bool executor_lost = false;

  bool ok() const { return outcome == schema::Outcome::ok; }
};

struct LoadResult {
  schema::Outcome outcome = schema::Outcome::internal;
  std::string message;
  bool at_first_read = false;
  uint64_t load_us = 0;
};

// What is to be loaded.
struct FunctionImage {
  uint64_t id = 0;
  std::string name;
  std::string argv0;
  std::string bytes;
  std::vector<std::string> args, env;
  uint64_t memory_bytes = 0;
  uint32_t timeout_ms = 0;
};

// The sluice-executor process: started, watched, started again when it ends, and talked to over a
// unix socket (schemas/executor.fbs). On the shard's thread.
//
// It keeps nothing over a restart: functions have to be loaded again, calls in flight end with
// `executor_lost`.
class Executor {
 public:
  enum class State {
    kStarting,  // or starting again
    kRunning,
    kUnavailable,  // runs, but this machine can run no sandboxes; reason() says why
    kStopped,
  };

  // `changed` is called when state() has changed.
  Executor(uv_loop_t* loop, std::string program, net::FlushList& flushes,
           std::function<void()> changed);
  ~Executor();

  void start();
  // Ends it; calls in flight are lost. It is not started again.
  void stop();

  State state() const { return state_; }  // from any thread
  const std::string& reason() const { return reason_; }
  const std::string& backend() const { return backend_; }
  uint32_t workers() const { return workers_; }
  uint64_t restarts() const { return restarts_; }
  uint64_t calls() const { return calls_; }
  int pid() const { return process_ != nullptr ? process_->pid : 0; }

  // Calls back when it answers or has failed to: at once unless it is on its way up.
  void when_up(std::function<void()> callback);

  // The callbacks come on a later turn. Only while state() is kRunning or kUnavailable (the
  // executor itself answers then, a bad image for what it is).
  void load(const FunctionImage& image, std::function<void(LoadResult)> done);
  void invoke(uint64_t function, amqp::Bytes input, std::function<void(CallResult)> done);
  void unload(uint64_t function);

 private:
  void spawn();
  // The process itself; 0 or libuv's error.
  int spawn_process(int socket_fd, int log_fd);
  void limit_resources();
  void failed_to_start(std::string_view why);
  void exited(int64_t status, int signal);
  size_t on_data(amqp::Bytes bytes);
  bool on_frame(amqp::Bytes frame);
  void on_hello(const schema::Hello& hello);
  void on_loaded(const schema::Loaded& loaded);
  void on_result(const schema::Result& result);
  void send(flatbuffers::FlatBufferBuilder& builder);
  void lose(const std::string& why);
  void tell_waiters();
  void set_state(State state, std::string reason);

  uv_loop_t* loop_;
  const std::string program_;
  net::FlushList& flushes_;
  std::function<void()> changed_;

  std::atomic<State> state_ = State::kStopped;
  std::string reason_;
  std::string backend_ = "none";
  uint32_t workers_ = 0;
  uint64_t restarts_ = 0;
  uint64_t calls_ = 0;

  uv_process_t* process_ = nullptr;  // freed in its close callback
  std::unique_ptr<net::Stream> stream_;
  std::unique_ptr<ExecutorLog> log_;  // of the last one started, whose last words it reads
  ExecutorCgroup cgroup_;
  std::string cgroup_trouble_;  // as last logged
  net::Timer restart_timer_;
  uint64_t restart_after_ms_ = 0;
  uint64_t started_at_ms_ = 0;
  bool stopping_ = false;
  bool on_its_way_ = false;  // started, or soon started again, and not heard of yet
  std::vector<std::function<void()>> waiters_;

  uint64_t last_call_ = 0;
  std::map<uint64_t, std::function<void(CallResult)>> calls_in_flight_;
  std::map<uint64_t, std::function<void(LoadResult)>> loads_in_flight_;
};

}  // namespace sluice::broker
