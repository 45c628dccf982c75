#pragma once

#include <cstdint>

#include "base/error.h"
#include "executor/vdso/clock_page.h"
#include "executor/vmm/elf_image.h"
#include "executor/vmm/limits.h"

// Where everything lies, in the guest's physical memory (one slot from 0) and in its virtual
// address space. The program sees one window of addresses; a page of it always has the same
// physical page, so a translation that some TLB still holds can never lead to another's data.
namespace sluice::vmm {

// The supervisor's own pages, by number in physical memory. They are mapped at kKernelBase, for
// CPL 0 only except where boot.cc says otherwise.
enum KernelPage : uint64_t {
  kPageGdt = 1,  // with the TSS behind it
  kPageIdt,
  kPageExceptionStubs,
  kPageSyscallStub,
  kPageResumeData,
  kPageKernelStack,
  kPageClock,  // what the vDSO reads; programs may, too
  kPageVdso,
  kKernelPages = kPageVdso + 2,
};
inline constexpr uint64_t kKernelBase = 0x7fffc0000000;
inline constexpr uint64_t kLargeBytes = 2ull << 20;  // what one page table maps

constexpr uint64_t kernel_address(KernelPage page) { return kKernelBase + page * kPageBytes; }
inline constexpr uint64_t kVdsoBytesMax = (kKernelPages - kPageVdso) * kPageBytes;
static_assert(kernel_address(kPageClock) == SLUICE_CLOCK_PAGE);

struct Layout {
  uint64_t window = 0;        // first address of the window, a multiple of kLargeBytes
  uint64_t window_pages = 0;  // its length
  uint64_t memory_pages = 0;  // how many of them may be accessible at a time
  uint64_t first_usable = 0;  // lowest page of the window that may be mapped
  uint64_t stack_low = 0;     // page number in the window; the guard lies below
  // Byte offsets in physical memory. Page tables are not mapped anywhere in the guest.
  uint64_t pml4 = 0, kernel_pdpt = 0, kernel_pd = 0, kernel_pt = 0;
  uint64_t window_pdpt = 0, window_pd = 0, window_pt = 0;
  uint64_t window_pds = 0, window_pts = 0;  // how many of each
  uint64_t ram = 0;                         // page 0 of the window
  uint64_t total_bytes = 0;

  uint64_t window_end() const { return window + window_pages * kPageBytes; }
  bool contains(uint64_t address, uint64_t bytes) const {
    return address >= window && address <= window_end() && bytes <= window_end() - address;
  }
  // The window's page that holds `address`, which must lie in the window.
  uint64_t page_of(uint64_t address) const { return (address - window) / kPageBytes; }
  uint64_t address_of(uint64_t page) const { return window + page * kPageBytes; }
  // The physical page behind a page of the window.
  uint64_t physical_page(uint64_t page) const { return ram / kPageBytes + page; }
  uint64_t stack_bytes() const { return (window_pages - stack_low) * kPageBytes; }
};

// `reserve_bytes` is address space beyond the memory, for runtimes that reserve much more than they
// use. Errors: kInvalid when the image and a stack do not fit into `memory_bytes`.
Expected<Layout> make_layout(const ElfImage& image, uint64_t memory_bytes,
                             uint64_t reserve_bytes = 0);

}  // namespace sluice::vmm
