#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executor/contract/backend.h"

namespace sluice::executor {

// A call as it came: the frame is kept, because the input lies in it.
struct Call {
  uint64_t id = 0;
  std::vector<uint8_t> frame;
  std::span<const uint8_t> input;  // in `frame`
};

// A function version that the broker loaded. The service's thread makes it; a worker loads its
// snapshot; from then on, which Functions publishes under its lock, it does not change.
struct Function {
  enum class State { kLoading, kReady, kFailed };

  uint64_t id = 0;
  std::string name;
  State state = State::kLoading;       // guarded by Service::mutex_
  std::vector<Call> waiting;           // while loading; guarded by Service::mutex_
  std::shared_ptr<const Image> image;  // once ready
  Outcome failure = Outcome::kOk;      // once failed, and why
  std::string message;
  std::atomic<bool> unloaded = false;
};

}  // namespace sluice::executor
