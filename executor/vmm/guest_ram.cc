#include "executor/vmm/guest_ram.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

namespace sluice::vmm {
namespace {

std::unexpected<Error> fail_errno(const char* what) {
  return fail(Code::kUnavailable, std::string(what) + ": " + std::strerror(errno));
}

uint64_t bitmap_words(uint64_t pages) { return (pages + 63) / 64; }

}  // namespace

Expected<std::shared_ptr<const RamTemplate>> RamTemplate::seal(UniqueFd file, uint64_t bytes) {
  std::shared_ptr<RamTemplate> t(new RamTemplate);
  t->file_ = std::move(file);
  t->bytes_ = bytes;
  // Clones fault holes in, which needs no seal lifted; nothing can write or resize any more.
  if (fcntl(t->fd(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
    return fail_errno("sealing a snapshot's memory");
  }
  void* base = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, t->fd(), 0);
  if (base == MAP_FAILED) return fail_errno("mapping a snapshot's memory");
  t->base_ = static_cast<const uint8_t*>(base);
  if (auto found = t->find_data(); !found) return std::unexpected(found.error());
  return t;
}

// Data is what the file system has pages for, less those that are all zeros.
Expected<void> RamTemplate::find_data() {
  static constexpr uint8_t kZeros[kPageBytes] = {};
  data_.assign(bitmap_words(bytes_ / kPageBytes), 0);
  off_t at = 0;
  for (;;) {
    off_t from = lseek(fd(), at, SEEK_DATA);
    if (from < 0) {
      if (errno == ENXIO) return {};
      return fail_errno("looking for a snapshot's data");
    }
    off_t to = lseek(fd(), from, SEEK_HOLE);
    if (to < 0) return fail_errno("looking for a snapshot's holes");
    for (off_t o = from; o < to; o += kPageBytes) {
      if (std::memcmp(base_ + o, kZeros, kPageBytes) == 0) continue;
      uint64_t page = static_cast<uint64_t>(o) / kPageBytes;
      data_[page / 64] |= 1ull << (page % 64);
      data_bytes_ += kPageBytes;
    }
    at = to;
  }
}

RamTemplate::~RamTemplate() {
  if (base_ != nullptr) munmap(const_cast<uint8_t*>(base_), bytes_);
}

Expected<std::unique_ptr<GuestRam>> GuestRam::create(uint64_t bytes) {
  std::unique_ptr<GuestRam> ram(new GuestRam);
  ram->bytes_ = bytes;
  ram->file_ = UniqueFd(memfd_create("sluice-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (ram->file_.get() < 0) return fail_errno("making a guest's memory file");
  if (ftruncate(ram->file_.get(), static_cast<off_t>(bytes)) < 0) {
    return fail_errno("sizing a guest's memory file");
  }
  if (auto mapped = ram->map(ram->file_.get(), MAP_SHARED); !mapped) {
    return std::unexpected(mapped.error());
  }
  return ram;
}

Expected<std::unique_ptr<GuestRam>> GuestRam::clone(std::shared_ptr<const RamTemplate> from) {
  std::unique_ptr<GuestRam> ram(new GuestRam);
  ram->bytes_ = from->bytes();
  ram->source_ = std::move(from);
  if (auto mapped = ram->map(ram->source_->fd(), MAP_PRIVATE); !mapped) {
    return std::unexpected(mapped.error());
  }
  return ram;
}

Expected<void> GuestRam::map(int fd, int flags) {
  void* base = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) return fail_errno("mapping a guest's memory");
  base_ = static_cast<uint8_t*>(base);
  // A guest's memory is no part of a core dump, nor of a child of ours.
  madvise(base, bytes_, MADV_DONTDUMP);
  madvise(base, bytes_, MADV_DONTFORK);
  host_dirty_.assign(bitmap_words(pages()), 0);
  return {};
}

GuestRam::~GuestRam() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

const uint8_t* GuestRam::readable(uint64_t offset, uint64_t bytes) const {
  CHECK(offset <= bytes_ && bytes <= bytes_ - offset);
  return base_ + offset;
}

uint8_t* GuestRam::writable(uint64_t offset, uint64_t bytes) {
  uint8_t* at = scratch(offset, bytes);
  if (bytes > 0) {
    uint64_t first = offset / kPageBytes;
    mark(first, (offset + bytes - 1) / kPageBytes - first + 1);
  }
  return at;
}

uint8_t* GuestRam::scratch(uint64_t offset, uint64_t bytes) {
  CHECK(offset <= bytes_ && bytes <= bytes_ - offset);
  return base_ + offset;
}

void GuestRam::mark(uint64_t page, uint64_t count) {
  for (uint64_t p = page; p < page + count; p++) host_dirty_[p / 64] |= 1ull << (p % 64);
}

void GuestRam::zero_pages(uint64_t page, uint64_t count) {
  CHECK(page + count <= pages());
  if (count == 0) return;
  if (source_ == nullptr) {
    int done =
        fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(page * kPageBytes), static_cast<off_t>(count * kPageBytes));
    CHECK(done == 0);
    return;
  }
  revert_pages(page, count);
  for (uint64_t p = page; p < page + count; p++) {
    if (source_->has_data(p)) std::memset(writable(p * kPageBytes, kPageBytes), 0, kPageBytes);
  }
}

void GuestRam::revert_pages(uint64_t page, uint64_t count) {
  CHECK(source_ != nullptr && page + count <= pages());
  if (count == 0) return;
  CHECK(madvise(base_ + page * kPageBytes, count * kPageBytes, MADV_DONTNEED) == 0);
}

void GuestRam::forget_translations(uint64_t page, uint64_t count) {
  CHECK(page + count <= pages());
  if (count == 0) return;
  uint8_t* at = base_ + page * kPageBytes;
  CHECK(mprotect(at, count * kPageBytes, PROT_NONE) == 0);
  CHECK(mprotect(at, count * kPageBytes, PROT_READ | PROT_WRITE) == 0);
}

bool GuestRam::restore_page(uint64_t page) {
  static constexpr uint8_t kZeros[kPageBytes] = {};
  uint8_t* at = base_ + page * kPageBytes;
  const uint8_t* from = source_->has_data(page) ? source_->page(page) : kZeros;
  if (std::memcmp(at, from, kPageBytes) == 0) return false;
  std::memcpy(at, from, kPageBytes);
  return true;
}

Expected<std::shared_ptr<const RamTemplate>> GuestRam::seal(std::unique_ptr<GuestRam> ram) {
  CHECK(ram->source_ == nullptr);
  UniqueFd file = std::move(ram->file_);
  uint64_t bytes = ram->bytes_;
  ram.reset();  // a write seal needs every writable mapping gone
  return RamTemplate::seal(std::move(file), bytes);
}

}  // namespace sluice::vmm
