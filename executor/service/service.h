#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/contract/backend.h"
#include "executor/pool/pools.h"
#include "executor/service/framing.h"
#include "executor/service/loader.h"
#include "schemas/executor_generated.h"

namespace sluice::executor {

// Serves the protocol of schemas/executor.fbs on one socket: the calling thread reads and checks
// frames, the loader's threads load functions, and the pools run calls. Every command is answered;
// a bad frame ends the service, since the stream can not be trusted after it.
class Service {
 public:
  struct Options {
    int fd = 3;
    unsigned workers = 0;  // calls at the same time; 0: kWorkersPerCpu for each CPU
    // What runs functions. Where it is null, `unavailable` says why in one sentence.
    std::shared_ptr<Backend> backend;
    std::string unavailable;
    uint64_t memory_budget_bytes = 0;  // sandboxes and snapshots; 0: default_memory_budget()
  };

  explicit Service(const Options& options);
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Returns at the end of the stream. Calls may still run, whose results nobody wants: the caller
  // leaves the process. (The destructor waits for them.) Errors: kCorrupt, kIo.
  Expected<void> serve();

 private:
  Expected<void> handle(std::vector<uint8_t> frame);
  void handle_load(std::vector<uint8_t> frame, const schema::Load& load);
  void handle_invoke(std::vector<uint8_t> frame, const schema::Invoke& invoke);
  // On a loader's thread.
  void load(Function* function, uint64_t number, const schema::Load& load);

  Options options_;
  Outbox outbox_;
  Pools pools_;
  Loader loader_;
};

}  // namespace sluice::executor
