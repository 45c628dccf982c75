#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "executor/vmm/kvm.h"
#include "executor/vmm/limits.h"

namespace sluice::vmm {

// The memory of one snapshot: a sealed memory file that clones map copy-on-write. Immutable, so
// any thread may read it.
class RamTemplate {
 public:
  // Takes over `file` of `bytes` bytes, which nobody may write any more.
  static Expected<std::shared_ptr<const RamTemplate>> seal(UniqueFd file, uint64_t bytes);
  ~RamTemplate();
  RamTemplate(const RamTemplate&) = delete;
  RamTemplate& operator=(const RamTemplate&) = delete;

  int fd() const { return file_.get(); }
  uint64_t bytes() const { return bytes_; }
  // A page that was never written reads as zeros.
  bool has_data(uint64_t page) const { return (data_[page / 64] >> (page % 64)) & 1; }
  const uint8_t* page(uint64_t page) const { return base_ + page * kPageBytes; }
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  RamTemplate() = default;
  Expected<void> find_data();

  UniqueFd file_;
  uint64_t bytes_ = 0;
  uint64_t data_bytes_ = 0;
  const uint8_t* base_ = nullptr;
  std::vector<uint64_t> data_;
};

// The physical memory of one sandbox, as the host sees it. Offsets and page numbers are the
// guest's physical ones. The host's own writes go through writable(), so that the reset knows of
// them: KVM's dirty log has the guest's only. Owned by its sandbox's thread.
class GuestRam {
 public:
  // Fresh zeros in a memory file of its own: what a snapshot is made in.
  static Expected<std::unique_ptr<GuestRam>> create(uint64_t bytes);
  // A copy-on-write view of a template.
  static Expected<std::unique_ptr<GuestRam>> clone(std::shared_ptr<const RamTemplate> from);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  std::span<uint8_t> memory() { return {base_, bytes_}; }
  uint64_t pages() const { return bytes_ / kPageBytes; }
  const uint8_t* readable(uint64_t offset, uint64_t bytes) const;
  // Marks the range as written by the host.
  uint8_t* writable(uint64_t offset, uint64_t bytes);
  // Like writable(), for what the host sets anew before every call; not put back.
  uint8_t* scratch(uint64_t offset, uint64_t bytes);

  // Pages become zeros, their memory is given back, and no TLB knows them any more.
  void zero_pages(uint64_t page, uint64_t count);
  // The same for a clone, but what the template holds shows again.
  void revert_pages(uint64_t page, uint64_t count);
  // Makes every TLB and shadow page table forget these pages, so that the next access walks the
  // guest's page tables: KVM drops its own entries when the host's protection changes.
  void forget_translations(uint64_t page, uint64_t count);

  // Copies one page back from the template; returns whether it differed.
  bool restore_page(uint64_t page);
  std::vector<uint64_t>& host_dirty() { return host_dirty_; }
  const RamTemplate* source() const { return source_.get(); }

  // Ends a created RAM and makes it a template. The VM that used it must be gone.
  static Expected<std::shared_ptr<const RamTemplate>> seal(std::unique_ptr<GuestRam> ram);

 private:
  GuestRam() = default;
  Expected<void> map(int fd, int flags);
  void mark(uint64_t page, uint64_t count);

  UniqueFd file_;                              // of a created one
  std::shared_ptr<const RamTemplate> source_;  // of a clone
  uint8_t* base_ = nullptr;
  uint64_t bytes_ = 0;
  std::vector<uint64_t> host_dirty_;
};

}  // namespace sluice::vmm
