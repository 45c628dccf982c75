#include "executor/vmm/reset.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "executor/vmm/limits.h"

namespace sluice::vmm {

MemoryReset::MemoryReset(VirtualMachine& vm, GuestRam& ram, const Layout& layout)
    : vm_(vm),
      ram_(ram),
      layout_(layout),
      dirty_((ram.pages() + 63) / 64),
      dropped_(dirty_.size()),
      quiet_calls_(ram.pages()) {}

Expected<uint32_t> MemoryReset::reset(const Cow<PageMap>& now, const Cow<PageMap>& before) {
  if (auto read = vm_.dirty_log(dirty_); !read) return std::unexpected(read.error());
  const std::vector<uint64_t>& host = ram_.host_dirty();
  for (size_t i = 0; i < dirty_.size(); i++) dirty_[i] |= host[i];
  uint32_t restored = 0;
  if (!now.same(before)) drop_remapped(*now, *before);
  restored += restore_hot();
  if (any_dropped_) {
    if (auto done = finish_drops(); !done) return std::unexpected(done.error());
  }
  return restored;
}

// Pages whose mapping the call changed: reverting them also makes KVM forget the translations that
// the call's page tables gave.
void MemoryReset::drop_remapped(const PageMap& now, const PageMap& before) {
  uint64_t count = before.pages.size();
  constexpr uint64_t kStep = 512;
  for (uint64_t from = 0; from < count; from += kStep) {
    uint64_t step = std::min(kStep, count - from);
    if (std::memcmp(&now.pages[from], &before.pages[from], step) == 0) continue;
    for (uint64_t p = from; p < from + step; p++) {
      if (now.pages[p] == before.pages[p]) continue;
      drop(layout_.physical_page(p));
      any_dropped_ = true;
    }
  }
}

uint32_t MemoryReset::restore_hot() {
  uint32_t hot = 0, restored = 0, quiet = 0;
  for (uint64_t word : dirty_) hot += static_cast<uint32_t>(std::popcount(word));
  hot_pages_ = hot;
  if (hot > kHotPagesMax) {
    for (size_t i = 0; i < dirty_.size(); i++) dropped_[i] |= dirty_[i];
    any_dropped_ = true;
    return hot;
  }
  for (size_t i = 0; i < dirty_.size(); i++) {
    for (uint64_t left = dirty_[i] & ~dropped_[i]; left != 0; left &= left - 1) {
      uint64_t page = i * 64 + static_cast<uint64_t>(std::countr_zero(left));
      if (ram_.restore_page(page)) {
        restored++;
        quiet_calls_[page] = 0;
      } else if (quiet_calls_[page] < kCoolAfterCalls && ++quiet_calls_[page] < kCoolAfterCalls) {
        continue;
      } else {
        quiet++;
      }
    }
  }
  if (any_dropped_ || quiet >= kCoolBatchPages) {
    for (size_t i = 0; i < dirty_.size(); i++) {
      for (uint64_t left = dirty_[i]; left != 0; left &= left - 1) {
        uint64_t page = i * 64 + static_cast<uint64_t>(std::countr_zero(left));
        if (quiet_calls_[page] >= kCoolAfterCalls) drop(page);
      }
    }
    any_dropped_ = true;
  }
  return restored;
}

Expected<void> MemoryReset::finish_drops() {
  std::vector<uint64_t>& host = ram_.host_dirty();
  uint64_t pages = ram_.pages();
  for (uint64_t page = 0; page < pages;) {
    if (page % 64 == 0 && dropped_[page / 64] == 0) {
      page += 64;
      continue;
    }
    uint64_t end = page;
    while (end < pages && (dropped_[end / 64] >> (end % 64)) & 1) quiet_calls_[end++] = 0;
    if (end > page) {
      ram_.revert_pages(page, end - page);
      page = end;
    } else {
      page++;
    }
  }
  for (size_t i = 0; i < host.size(); i++) host[i] &= ~dropped_[i];
  auto cleared = vm_.clear_dirty(dropped_);
  std::ranges::fill(dropped_, 0);
  any_dropped_ = false;
  return cleared;
}

}  // namespace sluice::vmm
