#include "executor/vmm/files.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>

#include "base/check.h"

namespace sluice::vmm {

FileTable::FileTable(uint32_t descriptors_max) : descriptors_max_(descriptors_max) {
  using Kind = Tmpfs::Kind;
  add({.kind = Kind::kStdin, .node = 0, .offset = 0, .flags = O_RDONLY, .uses = 0}, false);
  add({.kind = Kind::kStdout, .node = 0, .offset = 0, .flags = O_WRONLY, .uses = 0}, false);
  add({.kind = Kind::kStderr, .node = 0, .offset = 0, .flags = O_WRONLY, .uses = 0}, false);
  add({.kind = Kind::kInvocation, .node = 0, .offset = 0, .flags = O_RDWR, .uses = 0}, true);
}

const FileTable::Description* FileTable::get(uint64_t fd) const {
  if (fd >= fds_.size() || fds_[fd].description == kNone) return nullptr;
  return &descriptions_[fds_[fd].description];
}

FileTable::Description* FileTable::edit(uint64_t fd) { return const_cast<Description*>(get(fd)); }

int64_t FileTable::free_fd(uint64_t from) {
  uint64_t fd = from;
  while (fd < fds_.size() && fds_[fd].description != kNone) fd++;
  if (fd >= descriptors_max_) return -EMFILE;
  if (fd >= fds_.size()) fds_.resize(fd + 1);
  return static_cast<int64_t>(fd);
}

int64_t FileTable::add(const Description& description, bool close_on_exec) {
  int64_t fd = free_fd(0);
  if (fd < 0) return fd;
  uint32_t slot = 0;
  while (slot < descriptions_.size() && descriptions_[slot].uses > 0) slot++;
  if (slot == descriptions_.size()) descriptions_.emplace_back();
  descriptions_[slot] = description;
  descriptions_[slot].uses = 1;
  fds_[static_cast<size_t>(fd)] = {slot, close_on_exec};
  return fd;
}

int64_t FileTable::duplicate(uint64_t fd, uint64_t from, bool close_on_exec) {
  CHECK(get(fd) != nullptr);
  int64_t to = free_fd(from);
  if (to >= 0) duplicate_to(fd, static_cast<uint64_t>(to), close_on_exec);
  return to;
}

void FileTable::duplicate_to(uint64_t fd, uint64_t to, bool close_on_exec) {
  CHECK(get(fd) != nullptr && get(to) == nullptr && to < descriptors_max_);
  if (to >= fds_.size()) fds_.resize(to + 1);
  fds_[to] = {fds_[fd].description, close_on_exec};
  descriptions_[fds_[fd].description].uses++;
}

std::optional<FileTable::Description> FileTable::close(uint64_t fd) {
  CHECK(get(fd) != nullptr);
  Description& d = descriptions_[fds_[fd].description];
  fds_[fd] = Fd{};
  if (--d.uses > 0) return std::nullopt;
  return std::exchange(d, Description{});
}

}  // namespace sluice::vmm
