// Changing the private file system's tree.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include <dirent.h>
#include <fcntl.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

using Kind = Tmpfs::Kind;

uint8_t entry_type(Kind kind) {
  switch (kind) {
    case Kind::kDirectory:
      return DT_DIR;
    case Kind::kFile:
      return DT_REG;
    case Kind::kSymbolicLink:
      return DT_LNK;
    default:
      return DT_CHR;
  }
}

}  // namespace

void Kernel::set_directory(Tmpfs::Ino node) {
  if (node == state_.directory) return;
  Tmpfs& fs = state_.fs.edit();
  // The working directory counts as open, but for the root, which can not go away.
  if (node != Tmpfs::kRoot) fs.open(node);
  if (state_.directory != Tmpfs::kRoot) fs.close(state_.directory);
  state_.directory = node;
}

int64_t Kernel::sys_getcwd(const Syscall& c) {
  std::string path = state_.fs->path_of(state_.directory);
  if (path.empty()) return -ENOENT;
  uint64_t bytes = path.size() + 1;
  if (c.args[1] < bytes) return -ERANGE;
  uint8_t* at = space_.for_write(c.args[0], bytes);
  if (at == nullptr) return -EFAULT;
  std::memcpy(at, path.c_str(), bytes);
  return static_cast<int64_t>(bytes);
}

int64_t Kernel::sys_chdir(const Syscall& c) {
  auto path = path_at(c.args[0]);
  if (!path) return -EFAULT;
  Tmpfs::Found found;
  if (int64_t error = find_at(AT_FDCWD, *path, true, found); error < 0) return error;
  if (found.node == 0) return -ENOENT;
  if (state_.fs->node(found.node).kind != Kind::kDirectory) return -ENOTDIR;
  set_directory(found.node);
  return 0;
}

int64_t Kernel::sys_fchdir(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  if (d->kind != Kind::kDirectory) return -ENOTDIR;
  set_directory(d->node);
  return 0;
}

int64_t Kernel::make_directory(uint64_t dirfd, uint64_t path, uint64_t mode) {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  Tmpfs::Found found;
  if (int64_t error = find_at(dirfd, *name, false, found); error < 0) return error;
  if (found.node != 0) return -EEXIST;
  return state_.fs.edit().create(
      found, Kind::kDirectory, static_cast<uint32_t>(mode) & ~state_.umask & 07777, realtime_ns());
}

int64_t Kernel::sys_mkdir(const Syscall& c) {
  return make_directory(AT_FDCWD, c.args[0], c.args[1]);
}

int64_t Kernel::sys_mkdirat(const Syscall& c) {
  return make_directory(c.args[0], c.args[1], c.args[2]);
}

int64_t Kernel::make_symlink(uint64_t target, uint64_t dirfd, uint64_t path) {
  auto to = path_at(target);
  auto name = path_at(path);
  if (!to || !name) return -EFAULT;
  if (to->size() >= kPathBytesMax) return -ENAMETOOLONG;
  Tmpfs::Found found;
  if (int64_t error = find_at(dirfd, *name, false, found); error < 0) return error;
  return state_.fs.edit().symlink(found, std::move(*to), realtime_ns());
}

int64_t Kernel::sys_symlink(const Syscall& c) {
  return make_symlink(c.args[0], AT_FDCWD, c.args[1]);
}

int64_t Kernel::sys_symlinkat(const Syscall& c) {
  return make_symlink(c.args[0], c.args[1], c.args[2]);
}

int64_t Kernel::remove(uint64_t dirfd, uint64_t path, bool directory) {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  Tmpfs::Found found;
  if (int64_t error = find_at(dirfd, *name, false, found); error < 0) return error;
  return directory ? state_.fs.edit().rmdir(found) : state_.fs.edit().unlink(found);
}

int64_t Kernel::sys_rmdir(const Syscall& c) { return remove(AT_FDCWD, c.args[0], true); }
int64_t Kernel::sys_unlink(const Syscall& c) { return remove(AT_FDCWD, c.args[0], false); }

int64_t Kernel::sys_unlinkat(const Syscall& c) {
  if (c.args[2] & ~static_cast<uint64_t>(AT_REMOVEDIR)) return -EINVAL;
  return remove(c.args[0], c.args[1], (c.args[2] & AT_REMOVEDIR) != 0);
}

int64_t Kernel::rename_at(uint64_t from_fd, uint64_t from, uint64_t to_fd, uint64_t to) {
  auto from_name = path_at(from);
  auto to_name = path_at(to);
  if (!from_name || !to_name) return -EFAULT;
  Tmpfs::Found source, target;
  if (int64_t error = find_at(from_fd, *from_name, false, source); error < 0) return error;
  if (int64_t error = find_at(to_fd, *to_name, false, target); error < 0) return error;
  return state_.fs.edit().rename(source, target);
}

int64_t Kernel::sys_rename(const Syscall& c) {
  return rename_at(AT_FDCWD, c.args[0], AT_FDCWD, c.args[1]);
}

int64_t Kernel::sys_renameat(const Syscall& c) {
  if (c.number == 316 && c.args[4] != 0) return -EINVAL;  // renameat2's flags
  return rename_at(c.args[0], c.args[1], c.args[2], c.args[3]);
}

int64_t Kernel::sys_truncate(const Syscall& c) {
  auto name = path_at(c.args[0]);
  if (!name) return -EFAULT;
  Tmpfs::Found found;
  if (int64_t error = find_at(AT_FDCWD, *name, true, found); error < 0) return error;
  if (found.node == 0) return -ENOENT;
  if (static_cast<int64_t>(c.args[1]) < 0) return -EINVAL;
  return state_.fs.edit().truncate(found.node, c.args[1], realtime_ns());
}

int64_t Kernel::change_mode(uint64_t dirfd, uint64_t path, uint64_t mode) {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  Tmpfs::Found found;
  if (int64_t error = find_at(dirfd, *name, true, found); error < 0) return error;
  if (found.node == 0) return -ENOENT;
  return state_.fs.edit().set_mode(found.node, static_cast<uint32_t>(mode & 07777));
}

int64_t Kernel::sys_chmod(const Syscall& c) { return change_mode(AT_FDCWD, c.args[0], c.args[1]); }

int64_t Kernel::sys_fchmodat(const Syscall& c) {
  return change_mode(c.args[0], c.args[1], c.args[2]);
}

int64_t Kernel::sys_fchmod(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  if (d->node == 0 || Tmpfs::is_channel(d->kind)) return 0;
  return state_.fs.edit().set_mode(d->node, static_cast<uint32_t>(c.args[1] & 07777));
}

// The offset counts entries: "." and "..", then the names in order.
int64_t Kernel::sys_getdents64(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  if (d->kind != Kind::kDirectory) return -ENOTDIR;
  const Tmpfs::Node& node = state_.fs->node(d->node);
  if (node.links == 0) return -ENOENT;
  uint64_t bytes_max = std::min<uint64_t>(c.args[2], 64 << 10);
  std::vector<uint8_t> out;
  uint64_t at = 0, next = d->offset;
  bool full = false;
  auto add = [&](const std::string& name, Tmpfs::Ino ino) {
    if (at++ < d->offset || full) return;
    constexpr size_t kHeader = 19;  // struct linux_dirent64 up to d_name
    size_t bytes = (kHeader + name.size() + 1 + 7) & ~size_t{7};
    if (out.size() + bytes > bytes_max) {
      full = true;
      return;
    }
    size_t from = out.size();
    out.resize(from + bytes, 0);
    uint64_t ino64 = ino, offset = at;
    auto length = static_cast<uint16_t>(bytes);
    std::memcpy(&out[from], &ino64, 8);
    std::memcpy(&out[from + 8], &offset, 8);
    std::memcpy(&out[from + 16], &length, 2);
    out[from + 18] = entry_type(state_.fs->node(ino).kind);
    std::memcpy(&out[from + kHeader], name.data(), name.size());
    next = at;
  };
  add(".", d->node);
  add("..", node.parent);
  for (const auto& [name, ino] : state_.fs->list(d->node)) add(name, ino);
  if (out.empty()) return full ? -EINVAL : 0;
  uint8_t* to = space_.for_write(c.args[1], out.size());
  if (to == nullptr) return -EFAULT;
  std::memcpy(to, out.data(), out.size());
  state_.files.edit().edit(c.args[0])->offset = next;
  return static_cast<int64_t>(out.size());
}

int64_t Kernel::sys_umask(const Syscall& c) {
  uint32_t before = state_.umask;
  state_.umask = static_cast<uint32_t>(c.args[0]) & 0777;
  return before;
}

}  // namespace sluice::vmm
