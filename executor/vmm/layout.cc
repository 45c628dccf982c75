#include "executor/vmm/layout.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"

namespace sluice::vmm {

Expected<Layout> make_layout(const ElfImage& image, uint64_t memory_bytes, uint64_t reserve_bytes) {
  CHECK(memory_bytes % kPageBytes == 0 && memory_bytes >= kMemoryBytesMin);
  Layout l;
  l.window = image.low & ~(kLargeBytes - 1);
  // The lead-in between the window's alignment and the image costs no memory.
  l.memory_pages = memory_bytes / kPageBytes;
  l.window_pages = (image.low - l.window + memory_bytes + reserve_bytes) / kPageBytes;
  l.first_usable = l.page_of(std::max(l.window, kImageAddressMin));
  uint64_t stack = std::min(kStackBytesMax, memory_bytes / kStackShare) & ~(kPageBytes - 1);
  l.stack_low = l.window_pages - stack / kPageBytes;

  uint64_t image_bytes = image.high - image.low;
  if (image_bytes > memory_bytes || memory_bytes - image_bytes < stack + kStackGuardBytes) {
    return fail(Code::kInvalid,
                fmt::format("the image takes {} bytes of address space and its stack {}, more than "
                            "its memory limit of {}; raise the limit",
                            image_bytes, stack, memory_bytes));
  }

  uint64_t next = kKernelPages * kPageBytes;
  auto take = [&next](uint64_t pages) {
    uint64_t at = next;
    next += pages * kPageBytes;
    return at;
  };
  l.pml4 = take(1);
  l.kernel_pdpt = take(1);
  l.kernel_pd = take(1);
  l.kernel_pt = take(1);
  l.window_pdpt = take(2);  // a window may straddle two entries of the PML4
  l.window_pds = ((l.window_end() - 1) >> 30) - (l.window >> 30) + 1;
  l.window_pd = take(l.window_pds);
  l.window_pts = ((l.window_end() - 1) >> 21) - (l.window >> 21) + 1;
  l.window_pt = take(l.window_pts);
  l.ram = next;
  l.total_bytes = l.ram + l.window_pages * kPageBytes;
  CHECK(l.window_end() <= kKernelBase);
  return l;
}

}  // namespace sluice::vmm
