#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/error.h"
#include "executor/vmm/guest.h"
#include "executor/vmm/outcome.h"
#include "executor/vmm/reset.h"
#include "executor/vmm/snapshot.h"

namespace sluice::vmm {

// A clone of a snapshot that serves one call after the other, each from the snapshot's state. Made,
// used and destroyed on one thread.
class Sandbox {
 public:
  // Errors: kUnavailable when the kernel refuses another VM.
  static Expected<std::unique_ptr<Sandbox>> clone(const Machine& machine,
                                                  std::shared_ptr<const Snapshot> snapshot);

  // Runs one call and puts everything back. Only while ready().
  CallResult call(std::span<const uint8_t> input);

  // False after a call that crashed, overran its time or met a defect: throw it away then.
  bool ready() const { return ready_; }
  // Pages that are copied back after every call.
  uint32_t hot_pages() const { return reset_->hot_pages(); }

 private:
  Sandbox() = default;
  Guest::Stop start_and_run(std::span<const uint8_t> input);
  void put_back(CallResult& result);

  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Guest> guest_;
  std::unique_ptr<MemoryReset> reset_;
  bool ready_ = true;
};

}  // namespace sluice::vmm
