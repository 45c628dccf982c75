#pragma once

#include <memory>
#include <vector>

#include "executor/vmm/guest_ram.h"
#include "executor/vmm/kvm.h"
#include "executor/vmm/layout.h"

namespace sluice::vmm {

// What a call that writes to some pages costs at least: a loop of a few instructions in a clone of
// a memory file, one exit, the dirty log, and the pages copied back; no program, no system call
// that is served, nothing checked. On a software KVM only, where it starts in user mode.
class CallFloor {
 public:
  // Ends the process where something is not there.
  CallFloor(const Machine& machine, uint64_t pages);

  void call();

 private:
  uint64_t pages_;
  Layout layout_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<VirtualMachine> vm_;
  std::vector<uint64_t> dirty_;
};

}  // namespace sluice::vmm
