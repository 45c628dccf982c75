// Memory calls: the arguments' policy here, the work in AddressSpace.

#include <cerrno>

#include <sys/mman.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {

int64_t Kernel::sys_brk(const Syscall& c) {
  uint64_t before = space_.map()->break_now;
  int64_t now = space_.brk(c.args[0]);
  if (now != -ENOMEM) return now;
  refuse_memory(c.args[0] - before);
  return static_cast<int64_t>(before);
}

int64_t Kernel::sys_mmap(const Syscall& c) {
  uint64_t flags = c.args[3];
  // Files have no pages to share: what is mapped is a copy, which nobody else's writes reach.
  const FileTable::Description* file = nullptr;
  if ((flags & MAP_ANONYMOUS) == 0) {
    file = state_.files->get(c.args[4]);
    if (file == nullptr) return -EBADF;
    bool shared_writes = (flags & MAP_TYPE) != MAP_PRIVATE && (c.args[2] & PROT_WRITE) != 0;
    if (file->kind != Tmpfs::Kind::kFile || shared_writes) return -ENODEV;
    if (c.args[5] % kPageBytes != 0) return -EINVAL;
  }
  int64_t at = space_.mmap(c.args[0], c.args[1], c.args[2], flags);
  if (at == -ENOMEM) {
    if (c.args[2] == PROT_NONE) refused_reservation_ = true;
    return refuse_memory(c.args[1]);
  }
  if (at >= 0 && file != nullptr) {
    space_.fill(static_cast<uint64_t>(at), state_.fs->read(file->node, c.args[5], c.args[1]));
  }
  return at;
}

int64_t Kernel::sys_munmap(const Syscall& c) { return space_.munmap(c.args[0], c.args[1]); }

int64_t Kernel::sys_mprotect(const Syscall& c) {
  int64_t done = space_.mprotect(c.args[0], c.args[1], c.args[2]);
  return done == -ENOMEM ? refuse_memory(c.args[1]) : done;
}

int64_t Kernel::sys_mremap(const Syscall& c) {
  int64_t at = space_.mremap(c.args[0], c.args[1], c.args[2], c.args[3], c.args[4]);
  return at == -ENOMEM ? refuse_memory(c.args[2]) : at;
}

int64_t Kernel::sys_madvise(const Syscall& c) {
  switch (c.args[2]) {
    case MADV_DONTNEED:
      return space_.discard(c.args[0], c.args[1], [this] { return now_ns() < deadline_ns_; });
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_FREE:  // may keep the contents
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
      return 0;
    default:
      return -EINVAL;
  }
}

}  // namespace sluice::vmm
