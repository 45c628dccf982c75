#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "executor/vmm/tmpfs.h"

namespace sluice::vmm {

// A program's open files. A value, part of the snapshot. Descriptors made by dup share one
// description, so its offset, as on Linux.
class FileTable {
 public:
  struct Description {
    Tmpfs::Kind kind = Tmpfs::Kind::kUnused;
    Tmpfs::Ino node = 0;  // of a file or directory; of a channel its number (pipes.h)
    uint64_t offset = 0;  // the input's own offset is KernelState::input_offset
    int flags = 0;        // of open()
    uint32_t uses = 0;    // descriptors; 0 means that the entry is free
  };

  // Descriptors 0, 1, 2 and that of the function protocol are there from the start.
  explicit FileTable(uint32_t descriptors_max);

  // -EBADF where there is none.
  const Description* get(uint64_t fd) const;
  Description* edit(uint64_t fd);
  bool close_on_exec(uint64_t fd) const { return fds_[fd].close_on_exec; }
  void set_close_on_exec(uint64_t fd, bool on) { fds_[fd].close_on_exec = on; }

  // The lowest free descriptor from `from` on; -EMFILE when there is none.
  int64_t add(const Description& description, bool close_on_exec);
  int64_t duplicate(uint64_t fd, uint64_t from, bool close_on_exec);
  // Both must be valid; `to` must be closed.
  void duplicate_to(uint64_t fd, uint64_t to, bool close_on_exec);
  // Closes; returns the description when this was its last descriptor.
  std::optional<Description> close(uint64_t fd);

  uint32_t descriptors_max() const { return descriptors_max_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Fd {
    uint32_t description = kNone;
    bool close_on_exec = false;
  };
  int64_t free_fd(uint64_t from);

  uint32_t descriptors_max_;
  std::vector<Fd> fds_;
  std::vector<Description> descriptions_;
};

}  // namespace sluice::vmm
