#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/error.h"
#include "executor/contract/backend.h"
#include "executor/vmm/guest.h"
#include "executor/vmm/outcome.h"
#include "executor/vmm/reset.h"
#include "executor/vmm/snapshot.h"

namespace sluice::vmm {

// A clone of a snapshot that serves one call after the other, each from the snapshot's state. Made,
// used and destroyed on one thread.
class Sandbox : public executor::Sandbox {
 public:
  // Errors: kUnavailable when the kernel refuses another VM.
  static Expected<std::unique_ptr<Sandbox>> clone(const Machine& machine,
                                                  std::shared_ptr<const Snapshot> snapshot);

  CallResult call(std::span<const uint8_t> input) override;
  bool ready() const override { return ready_; }
  uint64_t memory_bytes() const override;
  void use_slot(executor::Slot* slot) override { guest_->use_slot(slot); }
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
