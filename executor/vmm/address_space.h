#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "executor/vmm/cow.h"
#include "executor/vmm/guest_ram.h"
#include "executor/vmm/layout.h"

namespace sluice::vmm {

// What is mapped in a window: one byte a page. A value, part of the snapshot. The guest's page
// tables follow from it; the host believes only this, never the tables.
struct PageMap {
  static constexpr uint8_t kFree = 0;
  static constexpr uint8_t kMapped = 0x80;  // or-ed with Prot

  std::vector<uint8_t> pages;
  uint64_t break_start = 0;  // addresses
  uint64_t break_now = 0;
  uint64_t break_mapped = 0;  // page number up to which the heap's pages are mapped
  uint64_t accessible = 0;    // pages that can be read, written or run: what the limit counts
};

// A program's memory: mappings, page tables, and checked access to its bytes. Every address that
// comes from the guest passes through here. Owned by its sandbox's thread; borrows both parts.
class AddressSpace {
 public:
  AddressSpace(const Layout& layout, GuestRam& ram);

  const Layout& layout() const { return layout_; }
  GuestRam& ram() { return ram_; }
  const Cow<PageMap>& map() const { return map_; }
  // Adopts a snapshot's map; the page tables must be the snapshot's too.
  void set_map(const Cow<PageMap>& map) { map_ = map; }

  // Maps the pages of a new program; `prot` of a page is the union of its segments'.
  void load_pages(uint64_t page, uint64_t count, uint8_t prot);
  void set_break(uint64_t address);

  // Linux's calls, after its manual pages: a result or a negative errno. -ENOMEM means that the
  // window is full.
  int64_t brk(uint64_t address);
  int64_t mmap(uint64_t address, uint64_t bytes, uint64_t prot, uint64_t flags);
  // Puts a file's bytes into pages that mmap() has just given, whatever their protection.
  void fill(uint64_t address, std::span<const uint8_t> bytes);
  int64_t munmap(uint64_t address, uint64_t bytes);
  int64_t mprotect(uint64_t address, uint64_t bytes, uint64_t prot);
  int64_t mremap(uint64_t address, uint64_t old_bytes, uint64_t new_bytes, uint64_t flags,
                 uint64_t new_address);
  // MADV_DONTNEED on a range; asks `proceed` between steps and ends early when it says no.
  int64_t discard(uint64_t address, uint64_t bytes, const std::function<bool()>& proceed);

  // The bytes of a range that the program could itself read or write; null where it would fault.
  // Pointers are valid until the next mapping call. The guest's vCPU does not run meanwhile.
  const uint8_t* for_read(uint64_t address, uint64_t bytes) const;
  uint8_t* for_write(uint64_t address, uint64_t bytes);

  template <typename T>
  std::optional<T> get(uint64_t address) const {
    const uint8_t* at = for_read(address, sizeof(T));
    if (at == nullptr) return std::nullopt;
    T value;
    __builtin_memcpy(&value, at, sizeof value);
    return value;
  }
  template <typename T>
  bool put(uint64_t address, const T& value) {
    uint8_t* at = for_write(address, sizeof(T));
    if (at == nullptr) return false;
    __builtin_memcpy(at, &value, sizeof value);
    return true;
  }
  // A string ended by zero of at most `bytes_max` bytes, the zero not counted. nullopt where it
  // would fault; longer strings come back cut at bytes_max + 1.
  std::optional<std::string> get_string(uint64_t address, uint64_t bytes_max) const;

  // What a faulting address is, for messages.
  std::string describe(uint64_t address) const;

 private:
  struct Range {
    uint64_t page, count;
  };
  std::optional<Range> range_of(uint64_t address, uint64_t bytes) const;
  bool allows(uint64_t address, uint64_t bytes, uint8_t prot) const;
  bool all_mapped(Range r) const;
  std::optional<uint64_t> find_free(uint64_t count) const;
  bool is_free(Range r) const;
  // The one place that changes protections: the map, the page tables, and what TLBs remember.
  void set_pages(Range r, uint8_t state);
  // Whether the memory limit allows that all pages of the range become accessible.
  bool affordable(Range r, uint8_t state) const;
  void map_zeros(Range r, uint8_t prot);
  void unmap(Range r);

  const Layout& layout_;
  GuestRam& ram_;
  Cow<PageMap> map_;
};

// The page table entry for a page of the window in the given state (PageMap's byte).
uint64_t page_table_entry(uint64_t physical_page, uint8_t state);

}  // namespace sluice::vmm
