#pragma once

#include <functional>
#include <memory>
#include <string>

#include "executor/contract/backend.h"
#include "executor/process/spawner.h"

namespace sluice::process {

// Runs functions in jailed processes (README.md). A sandbox is a process that waits for its input;
// each call has one of its own, and the next is started when a call is over. `spawner` must outlive
// it and its images. load() and clone() wait for processes: not for a thread that must not. The
// executor ignores SIGPIPE.
class ProcessBackend : public executor::Backend {
 public:
  // Tries whether this machine can do it. Errors: kUnavailable, with what to do about it.
  static Expected<std::unique_ptr<ProcessBackend>> open(const Spawner& spawner);

  std::string name() const override { return "process"; }
  Expected<std::shared_ptr<const executor::Image>> load(const executor::Program& program,
                                                        const executor::Limits& limits) override;

 private:
  explicit ProcessBackend(const Spawner& spawner) : spawner_(spawner) {}

  const Spawner& spawner_;
};

}  // namespace sluice::process
