#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/error.h"
#include "executor/contract/backend.h"
#include "executor/service/fair_queue.h"
#include "executor/service/framing.h"
#include "executor/service/function.h"
#include "schemas/executor_generated.h"

namespace sluice::executor {

// Serves the protocol of schemas/executor.fbs on one socket: the calling thread reads and checks
// frames, workers load functions and run calls, each with warm sandboxes of its own. Every command
// is answered; a bad frame ends the service, since the stream can not be trusted after it.
class Service {
 public:
  struct Options {
    int fd = 3;
    unsigned workers = 0;  // 0: kWorkersPerCpu for each CPU
    std::string kvm_path = "/dev/kvm";
  };

  explicit Service(const Options& options);
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Returns at the end of the stream. Workers may still be in calls, whose results nobody wants:
  // the caller leaves the process. Errors: kCorrupt, kIo.
  Expected<void> serve();

 private:
  struct LoadJob {
    std::shared_ptr<Function> function;
    std::vector<uint8_t> frame;
    const schema::Load* load;  // in `frame`
  };
  struct CallJob {
    std::shared_ptr<Function> function;
    Call call;
  };
  using Job = std::variant<LoadJob, CallJob>;

  // service.cc, on the reading thread.
  void send_hello();
  Expected<void> handle(std::vector<uint8_t> frame);
  void handle_load(std::vector<uint8_t> frame, const schema::Load& load);
  void handle_invoke(std::vector<uint8_t> frame, const schema::Invoke& invoke);
  void handle_unload(uint64_t function);
  void push(Job job);

  // worker.cc, on the workers.
  class Warm;
  void work();
  // `done` is the function whose job this worker has ended, 0 for none.
  std::optional<Job> pop(Warm& warm, uint64_t done);
  void load(LoadJob& job);
  void run(CallJob& job, Warm& warm);
  void send_failure(uint64_t call, Outcome outcome, const std::string& message);

  static uint64_t function_of(const Job& job);
  static size_t bytes_of(const Job& job);

  Options options_;
  Outbox outbox_;
  std::unique_ptr<Backend> backend_;  // null where there is no KVM
  std::string unavailable_;           // why

  // Guards what follows. Held for a push or a pop only.
  std::mutex mutex_;
  std::condition_variable jobs_, room_;
  FairQueue<uint64_t, Job> queue_;  // by function
  size_t queued_bytes_ = 0;
  uint64_t unloads_ = 0;  // counts them, so that idle workers look at their warm sandboxes
  std::unordered_map<uint64_t, std::shared_ptr<Function>> functions_;

  std::vector<std::jthread> workers_;
};

}  // namespace sluice::executor
