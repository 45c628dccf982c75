#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "executor/vmm/address_space.h"
#include "executor/vmm/guest_ram.h"
#include "executor/vmm/kvm.h"
#include "executor/vmm/layout.h"

namespace sluice::vmm {

// Puts a clone's memory back to its template after a call. Pages that calls dirty again and again
// stay writable and are copied back each time; pages that were not touched for a while, or that a
// call mapped or unmapped, are dropped, so that they show the template again at no cost in memory.
class MemoryReset {
 public:
  MemoryReset(VirtualMachine& vm, GuestRam& ram, const Layout& layout);

  // `now` is the call's map, `before` the snapshot's. Returns how many pages differed. After an
  // error the sandbox must not be used.
  Expected<uint32_t> reset(const Cow<PageMap>& now, const Cow<PageMap>& before);

  uint32_t hot_pages() const { return hot_pages_; }

 private:
  void drop_remapped(const PageMap& now, const PageMap& before);
  uint32_t restore_hot();
  void drop(uint64_t page) { dropped_[page / 64] |= 1ull << (page % 64); }
  Expected<void> finish_drops();

  VirtualMachine& vm_;
  GuestRam& ram_;
  const Layout& layout_;
  std::vector<uint64_t> dirty_;    // scratch: KVM's log, then with the host's
  std::vector<uint64_t> dropped_;  // scratch: pages to revert and forget
  bool any_dropped_ = false;
  std::vector<uint8_t> quiet_calls_;  // by page: calls in a row that left it alone
  uint32_t hot_pages_ = 0;
};

}  // namespace sluice::vmm
