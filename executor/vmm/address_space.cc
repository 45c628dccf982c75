#include "executor/vmm/address_space.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/mman.h>

#include "base/check.h"

namespace sluice::vmm {
namespace {

// Intel SDM volume 3, 4.5: bits of an entry. Accessed and dirty are set in advance, so that no CPU
// ever writes to a page table.
constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40;
constexpr uint64_t kNoExecute = 1ull << 63;

uint64_t round_up(uint64_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

uint8_t state_of(uint64_t linux_prot) {
  uint8_t state = PageMap::kMapped;
  if (linux_prot & PROT_READ) state |= kProtRead;
  if (linux_prot & PROT_WRITE) state |= kProtRead | kProtWrite;
  if (linux_prot & PROT_EXEC) state |= kProtRead | kProtExec;
  return state;
}

bool accessible(uint8_t state) { return (state & (kProtRead | kProtWrite | kProtExec)) != 0; }

// Whether going from one state to the other takes away something that a TLB may remember.
bool takes_away(uint8_t from, uint8_t to) {
  uint8_t before = from & (kProtRead | kProtWrite | kProtExec);
  uint8_t after = to & (kProtRead | kProtWrite | kProtExec);
  return (before & ~after) != 0;
}

}  // namespace

uint64_t page_table_entry(uint64_t physical_page, uint8_t state) {
  if ((state & (kProtRead | kProtWrite | kProtExec)) == 0) return 0;
  uint64_t entry = physical_page * kPageBytes | kPresent | kUser | kAccessed | kDirty;
  if (state & kProtWrite) entry |= kWritable;
  if ((state & kProtExec) == 0) entry |= kNoExecute;
  return entry;
}

AddressSpace::AddressSpace(const Layout& layout, GuestRam& ram) : layout_(layout), ram_(ram) {
  map_.edit().pages.assign(layout.window_pages, PageMap::kFree);
}

std::optional<AddressSpace::Range> AddressSpace::range_of(uint64_t address, uint64_t bytes) const {
  if (address % kPageBytes != 0 || bytes == 0) return std::nullopt;
  if (bytes > UINT64_MAX - kPageBytes) return std::nullopt;
  if (!layout_.contains(address, round_up(bytes))) return std::nullopt;
  Range r{layout_.page_of(address), round_up(bytes) / kPageBytes};
  if (r.page < layout_.first_usable) return std::nullopt;
  return r;
}

bool AddressSpace::is_free(Range r) const {
  auto from = map_->pages.begin() + static_cast<int64_t>(r.page);
  return std::all_of(from, from + static_cast<int64_t>(r.count),
                     [](uint8_t s) { return s == PageMap::kFree; });
}

bool AddressSpace::all_mapped(Range r) const {
  auto from = map_->pages.begin() + static_cast<int64_t>(r.page);
  return std::none_of(from, from + static_cast<int64_t>(r.count),
                      [](uint8_t s) { return s == PageMap::kFree; });
}

// Top-down from below the stack's guard, and not below the break.
std::optional<uint64_t> AddressSpace::find_free(uint64_t count) const {
  uint64_t top = layout_.stack_low - kStackGuardBytes / kPageBytes;
  uint64_t bottom = std::max(map_->break_mapped, layout_.first_usable);
  uint64_t run = 0;
  for (uint64_t p = top; p > bottom; p--) {
    run = map_->pages[p - 1] == PageMap::kFree ? run + 1 : 0;
    if (run == count) return p - 1;
  }
  return std::nullopt;
}

void AddressSpace::set_pages(Range r, uint8_t state) {
  if (r.count == 0) return;
  CHECK(r.page >= layout_.first_usable && r.page + r.count <= layout_.window_pages);
  PageMap& map = map_.edit();
  uint8_t* pages = map.pages.data();
  bool stale = false;
  for (uint64_t i = 0; i < r.count; i++) {
    uint8_t& before = pages[r.page + i];
    stale |= takes_away(before, state);
    map.accessible += accessible(state);
    map.accessible -= accessible(before);
    // A reservation changes no page table.
    if (accessible(before) || accessible(state)) {
      uint64_t entry = page_table_entry(layout_.physical_page(r.page + i), state);
      uint64_t offset = layout_.window_pt + (r.page + i) * sizeof entry;
      std::memcpy(ram_.writable(offset, sizeof entry), &entry, sizeof entry);
    }
    before = state;
  }
  if (stale) ram_.forget_translations(layout_.physical_page(r.page), r.count);
}

bool AddressSpace::affordable(Range r, uint8_t state) const {
  if (!accessible(state)) return true;
  auto from = map_->pages.begin() + static_cast<int64_t>(r.page);
  auto more = std::count_if(from, from + static_cast<int64_t>(r.count),
                            [](uint8_t s) { return !accessible(s); });
  return map_->accessible + static_cast<uint64_t>(more) <= layout_.memory_pages;
}

// Only pages that were unmapped before are mapped here, and unmap() leaves zeros behind.
void AddressSpace::map_zeros(Range r, uint8_t prot) { set_pages(r, PageMap::kMapped | prot); }

void AddressSpace::unmap(Range r) {
  if (r.count == 0) return;
  set_pages(r, PageMap::kFree);
  ram_.zero_pages(layout_.physical_page(r.page), r.count);
}

void AddressSpace::load_pages(uint64_t page, uint64_t count, uint8_t prot) {
  for (uint64_t p = page; p < page + count; p++) {
    uint8_t both = map_->pages[p] | state_of(PROT_NONE) | prot;
    set_pages({p, 1}, both);
  }
}

void AddressSpace::set_break(uint64_t address) {
  PageMap& m = map_.edit();
  m.break_start = m.break_now = address;
  m.break_mapped = layout_.page_of(address);
}

int64_t AddressSpace::brk(uint64_t address) {
  const PageMap& m = *map_;
  uint64_t now = m.break_now;
  uint64_t limit = layout_.address_of(layout_.stack_low) - kStackGuardBytes;
  if (address < m.break_start || address > limit) {
    return address > limit ? -ENOMEM : static_cast<int64_t>(now);
  }
  uint64_t pages_end = layout_.page_of(round_up(address));
  if (pages_end > m.break_mapped) {
    Range need{m.break_mapped, pages_end - m.break_mapped};
    if (!is_free(need)) return -ENOMEM;
    Range slack{need.page, need.count};
    uint64_t limit_page = layout_.page_of(limit);
    uint64_t wish = std::min(limit_page, pages_end + kBreakSlackBytes / kPageBytes) - need.page;
    while (slack.count < wish && map_->pages[slack.page + slack.count] == PageMap::kFree) {
      slack.count++;
    }
    if (!affordable(slack, kProtRead)) slack = need;
    if (!affordable(slack, kProtRead)) return -ENOMEM;
    map_zeros(slack, kProtRead | kProtWrite);
    map_.edit().break_mapped = slack.page + slack.count;
  }
  if (address < now) {
    // What is given up must be zeros when the heap grows again; the pages stay mapped.
    uint64_t partial = std::min(round_up(address), now) - address;
    if (uint8_t* at = for_write(address, partial)) std::memset(at, 0, partial);
    uint64_t from = layout_.page_of(round_up(address));
    uint64_t to = layout_.page_of(round_up(now));
    if (to - from > 0 && to - from <= kZeroByHandPagesMax) {
      uint64_t bytes = (to - from) * kPageBytes;
      std::memset(ram_.writable(layout_.physical_page(from) * kPageBytes, bytes), 0, bytes);
    } else if (to > from) {
      ram_.zero_pages(layout_.physical_page(from), to - from);
    }
  }
  map_.edit().break_now = address;
  return static_cast<int64_t>(address);
}

int64_t AddressSpace::mmap(uint64_t address, uint64_t bytes, uint64_t prot, uint64_t flags) {
  if (bytes == 0) return -EINVAL;
  if (bytes > kMemoryBytesMax) return -ENOMEM;
  uint8_t p = state_of(prot);
  if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
    if (address % kPageBytes != 0) return -EINVAL;
    auto r = range_of(address, bytes);
    if (!r) return -ENOMEM;
    if ((flags & MAP_FIXED_NOREPLACE) && !is_free(*r)) return -EEXIST;
    if (!affordable(*r, p)) return -ENOMEM;
    if (!is_free(*r)) unmap(*r);
    map_zeros(*r, p);
    return static_cast<int64_t>(address);
  }
  uint64_t count = round_up(bytes) / kPageBytes;
  if (address != 0) {
    auto hint = range_of(address & ~(kPageBytes - 1), bytes);
    if (hint && is_free(*hint) &&
        hint->page + hint->count <= layout_.stack_low - kStackGuardBytes / kPageBytes &&
        affordable(*hint, p)) {
      map_zeros(*hint, p);
      return static_cast<int64_t>(layout_.address_of(hint->page));
    }
  }
  auto page = find_free(count);
  if (!page || !affordable({*page, count}, p)) return -ENOMEM;
  map_zeros({*page, count}, p);
  return static_cast<int64_t>(layout_.address_of(*page));
}

void AddressSpace::fill(uint64_t address, std::span<const uint8_t> bytes) {
  if (bytes.empty()) return;
  CHECK(layout_.contains(address, bytes.size()));
  std::memcpy(ram_.writable(layout_.ram + (address - layout_.window), bytes.size()), bytes.data(),
              bytes.size());
}

int64_t AddressSpace::munmap(uint64_t address, uint64_t bytes) {
  if (address % kPageBytes != 0 || bytes == 0) return -EINVAL;
  auto r = range_of(address, bytes);
  if (!r) return -EINVAL;
  // A heap page that is unmapped stays out of the break's reach: brk() finds it mapped already.
  unmap(*r);
  return 0;
}

int64_t AddressSpace::mprotect(uint64_t address, uint64_t bytes, uint64_t prot) {
  if (address % kPageBytes != 0) return -EINVAL;
  if (bytes == 0) return 0;
  auto r = range_of(address, bytes);
  if (!r || !all_mapped(*r)) return -ENOMEM;
  if (!affordable(*r, state_of(prot))) return -ENOMEM;
  set_pages(*r, state_of(prot));
  return 0;
}

int64_t AddressSpace::mremap(uint64_t address, uint64_t old_bytes, uint64_t new_bytes,
                             uint64_t flags, uint64_t) {
  if (flags & ~static_cast<uint64_t>(MREMAP_MAYMOVE)) return -EINVAL;  // FIXED, DONTUNMAP
  if (address % kPageBytes != 0 || new_bytes == 0 || new_bytes > kMemoryBytesMax) return -EINVAL;
  auto r = range_of(address, old_bytes);
  if (!r || !all_mapped(*r)) return -EFAULT;
  uint64_t count = round_up(new_bytes) / kPageBytes;
  if (count <= r->count) {
    unmap({r->page + count, r->count - count});
    return static_cast<int64_t>(address);
  }
  uint8_t state = map_->pages[r->page];
  uint64_t top = layout_.stack_low - kStackGuardBytes / kPageBytes;
  Range more{r->page + r->count, count - r->count};
  if (!affordable(more.page + more.count <= top ? more : *r, state)) return -ENOMEM;
  if (more.page + more.count <= top && is_free(more)) {
    map_zeros(more, state);
    return static_cast<int64_t>(address);
  }
  if ((flags & MREMAP_MAYMOVE) == 0) return -ENOMEM;
  auto page = find_free(count);
  if (!page || !affordable({*page, count}, state)) return -ENOMEM;
  map_zeros({*page, count}, state);
  uint64_t moved = r->count * kPageBytes;
  std::memcpy(ram_.writable(layout_.physical_page(*page) * kPageBytes, moved),
              ram_.readable(layout_.physical_page(r->page) * kPageBytes, moved), moved);
  unmap(*r);
  return static_cast<int64_t>(layout_.address_of(*page));
}

int64_t AddressSpace::discard(uint64_t address, uint64_t bytes,
                              const std::function<bool()>& proceed) {
  if (address % kPageBytes != 0) return -EINVAL;
  if (bytes == 0) return 0;
  auto r = range_of(address, bytes);
  if (!r || !all_mapped(*r)) return -ENOMEM;
  constexpr uint64_t kStep = kDiscardStepBytes / kPageBytes;
  for (uint64_t done = 0; done < r->count; done += kStep) {
    if (!proceed()) return -EINTR;
    uint64_t step = std::min(kStep, r->count - done);
    ram_.zero_pages(layout_.physical_page(r->page + done), step);
  }
  return 0;
}

bool AddressSpace::allows(uint64_t address, uint64_t bytes, uint8_t prot) const {
  if (!layout_.contains(address, bytes)) return false;
  if (bytes == 0) return true;
  uint64_t last = layout_.page_of(address + bytes - 1);
  for (uint64_t p = layout_.page_of(address); p <= last; p++) {
    if ((map_->pages[p] & prot) != prot) return false;
  }
  return true;
}

const uint8_t* AddressSpace::for_read(uint64_t address, uint64_t bytes) const {
  if (!allows(address, bytes, kProtRead)) return nullptr;
  return ram_.readable(layout_.ram + (address - layout_.window), bytes);
}

uint8_t* AddressSpace::for_write(uint64_t address, uint64_t bytes) {
  if (!allows(address, bytes, kProtWrite)) return nullptr;
  return ram_.writable(layout_.ram + (address - layout_.window), bytes);
}

std::optional<std::string> AddressSpace::get_string(uint64_t address, uint64_t bytes_max) const {
  std::string text;
  while (text.size() <= bytes_max) {
    uint64_t to_page_end = kPageBytes - address % kPageBytes;
    uint64_t step = std::min(to_page_end, bytes_max + 1 - text.size());
    const uint8_t* at = for_read(address, step);
    if (at == nullptr) return std::nullopt;
    const auto* end = static_cast<const uint8_t*>(std::memchr(at, 0, step));
    text.append(reinterpret_cast<const char*>(at), end != nullptr ? end - at : step);
    if (end != nullptr) return text;
    address += step;
  }
  return text;
}

std::string AddressSpace::describe(uint64_t address) const {
  if (address < kImageAddressMin) return "a null pointer";
  if (!layout_.contains(address, 1)) return "outside the program's memory";
  uint64_t page = layout_.page_of(address);
  uint64_t guard = kStackGuardBytes / kPageBytes;
  if (page < layout_.stack_low && page >= layout_.stack_low - guard) {
    return "below the stack: it overflowed its " + std::to_string(layout_.stack_bytes() >> 10) +
           " KiB";
  }
  uint8_t state = map_->pages[page];
  if (state == PageMap::kFree) return "not mapped";
  std::string rights;
  rights += (state & kProtRead) ? 'r' : '-';
  rights += (state & kProtWrite) ? 'w' : '-';
  rights += (state & kProtExec) ? 'x' : '-';
  return "mapped " + rights;
}

}  // namespace sluice::vmm
