#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <uv.h>

#include "broker/amqp/wire.h"
#include "broker/dispatch/executor_cgroup.h"
#include "broker/dispatch/executor_log.h"
#include "broker/dispatch/protocol.h"
#include "broker/net/handles.h"
#include "broker/net/stream.h"
#include "schemas/executor_generated.h"

namespace sluice::broker {

// How a call ended; schemas/executor.fbs tells the fields.
struct CallResult {
  schema::Outcome outcome = schema::Outcome::internal;
  int exit_status = 0;
  std::string message;
  std::string output;  // of a plain program
  std::string log;
  uint32_t run_us = 0;
  uint32_t exits = 0;
  uint32_t dirty_pages = 0;
  // The executor ended during the call, through no known fault of the function.
  bool executor_lost = false;
  // What a program that speaks the function protocol answered, where the outcome is ok.
  std::shared_ptr<const protocol::AnswerFrame> answer;
  // The answer says that the call failed, or each of its records; `message` says why.
  bool answer_failed = false;

  bool ok() const { return outcome == schema::Outcome::ok && !answer_failed; }
  // The outcome's name; "failed" where the answer says so.
  std::string_view outcome_name() const {
    return answer_failed ? "failed" : schema::EnumNameOutcome(outcome);
  }
};

struct LoadResult {
  schema::Outcome outcome = schema::Outcome::internal;
  std::string message;
  bool at_first_read = false;
  bool speaks_protocol = false;
  uint64_t load_us = 0;
};

// What a function may use; executor/contract/call.h tells the fields.
struct FunctionLimits {
  uint64_t memory_bytes = 64u << 20;
  uint32_t timeout_ms = 5000;
  uint32_t cpu_ms = 0;
  uint32_t output_bytes = 16u << 20;
  uint32_t log_bytes = 64u << 10;
  uint32_t open_files = 64;
  uint32_t threads = 64;
  uint64_t tmpfs_bytes = 16u << 20;
};

// What is to be loaded. Views, of the time of the call.
struct FunctionImage {
  uint64_t id = 0;
  std::string_view name;
  std::string_view owner;
  std::string_view argv0;
  std::string_view image;       // empty: it is at `image_path`
  std::string_view rootfs;      // a tar archive; empty: none
  std::string_view image_path;  // in the root file system
  const std::vector<std::string>& args;
  const std::vector<std::string>& env;
  FunctionLimits limits;
  uint32_t concurrency = 0;
};

// What the executor last said of a function; schemas/executor.fbs tells the fields.
struct FunctionStats {
  uint32_t sandboxes = 0, running = 0, queued = 0, target = 0;
  uint64_t calls = 0, warm_hits = 0, cold_starts = 0, clones = 0, clone_us = 0;
  uint64_t resets = 0, discarded = 0, dirty_pages = 0, exits = 0, run_us = 0, memory_bytes = 0;
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

  // `arguments` are for the program; `changed` is called when state() has changed.
  Executor(uv_loop_t* loop, std::string program, std::vector<std::string> arguments,
           net::FlushList& flushes, std::function<void()> changed);
  ~Executor();

  void start();
  // Ends it; calls in flight are lost. It is not started again.
  void stop();

  State state() const { return state_; }  // from any thread
  const std::string& reason() const { return reason_; }
  const std::string& backend() const { return backend_; }
  // What kind of sandbox that is: "kvm", "process", or "none".
  std::string_view sandbox() const;
  // Of all sandboxes, as last told.
  uint64_t memory_bytes() const { return memory_bytes_; }
  uint64_t memory_budget_bytes() const { return memory_budget_bytes_; }
  uint32_t workers() const { return workers_; }
  uint64_t restarts() const { return restarts_; }
  uint64_t calls() const { return calls_; }
  int pid() const { return process_ != nullptr ? process_->pid : 0; }

  // Calls back when it answers or has failed to: at once unless it is on its way up.
  void when_up(std::function<void()> callback);

  // The callbacks come on a later turn. Only while state() is kRunning or kUnavailable (the
  // executor itself answers then, a bad image for what it is).
  void load(const FunctionImage& image, std::function<void(LoadResult)> done);
  // A plain program, with its stdin; what it wrote is the result's output.
  void invoke(uint64_t function, amqp::Bytes input, std::function<void(CallResult)> done);
  // One that speaks the function protocol; its answer's frame is the result's output. `bytes` is
  // the invocation's encoded_size().
  void invoke(uint64_t function, const protocol::Invocation& invocation, size_t bytes,
              std::function<void(CallResult)> done);
  void unload(uint64_t function);

  // Called with what the executor says of a function, about once a second while that changes.
  void when_stats(std::function<void(uint64_t function, const FunctionStats&)> callback) {
    stats_ = std::move(callback);
  }

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
  void on_stats(const schema::Stats& stats);
  void ignore(schema::Event type);
  uint64_t begin_call(std::function<void(CallResult)> done);
  void finish_invoke(uint64_t call, uint64_t function,
                     flatbuffers::Offset<flatbuffers::Vector<uint8_t>> input);
  void send(flatbuffers::FlatBufferBuilder& builder);
  void send_pieces();
  void lose(const std::string& why);
  void tell_waiters();
  void set_state(State state, std::string reason);

  uv_loop_t* loop_;
  const std::string program_;
  const std::vector<std::string> arguments_;
  net::FlushList& flushes_;
  std::function<void()> changed_;
  std::function<void(uint64_t, const FunctionStats&)> stats_;

  std::atomic<State> state_ = State::kStopped;
  std::string reason_;
  std::string backend_ = "none";
  uint32_t workers_ = 0;
  uint64_t restarts_ = 0;
  uint64_t calls_ = 0;
  uint64_t memory_bytes_ = 0;
  uint64_t memory_budget_bytes_ = 0;

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

  // Frames behind a large one, and that itself, of which the stream gets one piece at a time.
  struct Outgoing {
    flatbuffers::DetachedBuffer frame;
    size_t sent = 0;
  };
  std::deque<Outgoing> outgoing_;
  flatbuffers::FlatBufferBuilder builder_;  // of calls
  std::vector<uint64_t> frame_;             // that is being read
  uint64_t events_ignored_ = 0;             // bits, by type

  uint64_t last_call_ = 0;
  std::map<uint64_t, std::function<void(CallResult)>> calls_in_flight_;
  std::map<uint64_t, std::function<void(LoadResult)>> loads_in_flight_;
};

}  // namespace sluice::broker
