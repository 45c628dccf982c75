// Descriptors, and looking at files.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

using Kind = Tmpfs::Kind;

constexpr int64_t kStreamBlockBytes = 64 << 10;  // what stdio takes as its buffer: fewer exits
constexpr uint64_t kInputIno = 1 << 20, kOutputIno = kInputIno + 1, kLogIno = kInputIno + 2;
constexpr uint64_t kInvocationIno = kInputIno + 3;
constexpr uint64_t kDevice = 0x10;
constexpr const char* kProcSelfExe = "/proc/self/exe";

}  // namespace

std::optional<std::string> Kernel::path_at(uint64_t address) const {
  return space_.get_string(address, kPathBytesMax);
}

int64_t Kernel::find_at(uint64_t dirfd, const std::string& path, bool follow,
                        Tmpfs::Found& found) const {
  Tmpfs::Ino from = state_.directory;
  if (static_cast<int32_t>(dirfd) != AT_FDCWD && !path.starts_with('/')) {
    const FileTable::Description* d = state_.files->get(dirfd);
    if (d == nullptr) return -EBADF;
    if (d->kind != Kind::kDirectory) return -ENOTDIR;
    from = d->node;
  }
  return state_.fs->find(from, path, follow, found);
}

int64_t Kernel::open_found(Tmpfs::Found& found, int flags, uint32_t mode) {
  if (found.node == 0) {
    if ((flags & O_CREAT) == 0) return -ENOENT;
    int64_t made =
        state_.fs.edit().create(found, Kind::kFile, mode & ~state_.umask & 07777, realtime_ns());
    if (made < 0) return made;
  } else if ((flags & O_CREAT) && (flags & O_EXCL)) {
    return -EEXIST;
  }
  Kind kind = state_.fs->node(found.node).kind;
  bool writes = (flags & O_ACCMODE) != O_RDONLY;
  if (kind == Kind::kSymbolicLink) return -ELOOP;
  if (kind == Kind::kFile && writes && state_.fs->read_only(found.node)) return -EROFS;
  if (kind == Kind::kDirectory && (writes || (flags & O_CREAT))) return -EISDIR;
  if (kind != Kind::kDirectory && (flags & O_DIRECTORY)) return -ENOTDIR;

  // /dev/stdin and its kin share the descriptions that the program started with.
  FileTable::Description d{kind, 0, 0, flags & (O_ACCMODE | O_APPEND | O_NONBLOCK), 0};
  if (kind == Kind::kFile || kind == Kind::kDirectory) d.node = found.node;
  int64_t fd = state_.files.edit().add(d, (flags & O_CLOEXEC) != 0);
  if (fd < 0) return fd;
  if (d.node != 0) state_.fs.edit().open(d.node);
  if ((flags & O_TRUNC) && kind == Kind::kFile && writes) {
    state_.fs.edit().truncate(found.node, 0, realtime_ns());
  }
  return fd;
}

int64_t Kernel::open_at(uint64_t dirfd, uint64_t path, uint64_t flags, uint64_t mode) {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  if ((flags & O_TMPFILE) == O_TMPFILE) return -EOPNOTSUPP;
  Tmpfs::Found found;
  bool follow = (flags & O_NOFOLLOW) == 0 && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  if (int64_t error = find_at(dirfd, *name, follow, found); error < 0) return error;
  return open_found(found, static_cast<int>(flags), static_cast<uint32_t>(mode));
}

int64_t Kernel::sys_open(const Syscall& c) {
  return open_at(AT_FDCWD, c.args[0], c.args[1], c.args[2]);
}

int64_t Kernel::sys_openat(const Syscall& c) {
  return open_at(c.args[0], c.args[1], c.args[2], c.args[3]);
}

int64_t Kernel::sys_creat(const Syscall& c) {
  return open_at(AT_FDCWD, c.args[0], O_CREAT | O_WRONLY | O_TRUNC, c.args[1]);
}

int64_t Kernel::close_fd(uint64_t fd) {
  if (state_.files->get(fd) == nullptr) return -EBADF;
  auto closed = state_.files.edit().close(fd);
  if (!closed) return 0;
  if (Tmpfs::is_channel(closed->kind)) {
    close_channel(*closed);
  } else if (closed->node != 0) {
    state_.fs.edit().close(closed->node);
  }
  return 0;
}

int64_t Kernel::sys_close(const Syscall& c) { return close_fd(c.args[0]); }

int64_t Kernel::sys_close_range(const Syscall& c) {
  if (c.args[0] > c.args[1] || c.args[2] != 0) return -EINVAL;
  uint64_t end = std::min<uint64_t>(c.args[1] + 1, limits_.open_files);
  for (uint64_t fd = c.args[0]; fd < end; fd++) close_fd(fd);
  return 0;
}

int64_t Kernel::sys_dup(const Syscall& c) {
  if (state_.files->get(c.args[0]) == nullptr) return -EBADF;
  return state_.files.edit().duplicate(c.args[0], 0, false);
}

int64_t Kernel::sys_dup2(const Syscall& c) {
  if (c.args[0] == c.args[1]) {
    return state_.files->get(c.args[0]) == nullptr ? -EBADF : static_cast<int64_t>(c.args[0]);
  }
  return sys_dup3({c.number, {c.args[0], c.args[1], 0}});
}

int64_t Kernel::sys_dup3(const Syscall& c) {
  if (c.args[0] == c.args[1] || (c.args[2] & ~static_cast<uint64_t>(O_CLOEXEC))) return -EINVAL;
  if (state_.files->get(c.args[0]) == nullptr) return -EBADF;
  if (c.args[1] >= limits_.open_files) return -EBADF;
  close_fd(c.args[1]);
  state_.files.edit().duplicate_to(c.args[0], c.args[1], (c.args[2] & O_CLOEXEC) != 0);
  return static_cast<int64_t>(c.args[1]);
}

int64_t Kernel::sys_fcntl(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  switch (c.args[1]) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      if (c.args[2] >= limits_.open_files) return -EINVAL;
      return state_.files.edit().duplicate(c.args[0], c.args[2], c.args[1] == F_DUPFD_CLOEXEC);
    case F_GETFD:
      return state_.files->close_on_exec(c.args[0]) ? FD_CLOEXEC : 0;
    case F_SETFD:
      state_.files.edit().set_close_on_exec(c.args[0], (c.args[2] & FD_CLOEXEC) != 0);
      return 0;
    case F_GETFL:
      return d->flags | 0100000;  // O_LARGEFILE, as Linux says on x86-64
    case F_SETFL: {
      constexpr uint64_t kSettable = O_APPEND | O_NONBLOCK;
      int kept = d->flags & ~static_cast<int>(kSettable);
      state_.files.edit().edit(c.args[0])->flags = kept | static_cast<int>(c.args[2] & kSettable);
      return 0;
    }
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
      return 0;  // nobody else can hold a lock
    default:
      return -EINVAL;
  }
}

// stdin looks like a file under /proc: regular, seekable, its size unknown (0) until it is read, so
// that programs take it in blocks. stdout and stderr look like pipes.
void Kernel::stat_node(Kind kind, Tmpfs::Ino node, struct stat& out) const {
  out = {};
  out.st_dev = kDevice;
  out.st_nlink = 1;
  out.st_blksize = kPageBytes;
  out.st_ino = node;
  switch (kind) {
    case Kind::kStdin:
      out.st_mode = S_IFREG | 0400;
      out.st_ino = kInputIno;
      out.st_blksize = kStreamBlockBytes;
      out.st_size = static_cast<off_t>(input_of(InputSource::kStdin).size());
      break;
    case Kind::kInvocation:
      out.st_mode = S_IFSOCK | 0600;
      out.st_ino = kInvocationIno;
      break;
    case Kind::kPipeEnd:
    case Kind::kPipeStart:
    case Kind::kEvent:
    case Kind::kEpoll:
      out.st_mode = S_IFIFO | 0600;
      break;
    case Kind::kStdout:
    case Kind::kStderr:
      out.st_mode = S_IFIFO | 0200;
      out.st_ino = kind == Kind::kStdout ? kOutputIno : kLogIno;
      out.st_blksize = kStreamBlockBytes;
      break;
    case Kind::kNull:
      out.st_mode = S_IFCHR | 0666;
      out.st_rdev = makedev(1, 3);
      break;
    case Kind::kZero:
      out.st_mode = S_IFCHR | 0666;
      out.st_rdev = makedev(1, 5);
      break;
    case Kind::kRandom:
      out.st_mode = S_IFCHR | 0666;
      out.st_rdev = makedev(1, 9);
      break;
    default: {
      const Tmpfs::Node& n = state_.fs->node(node);
      out.st_mode = n.mode | (kind == Kind::kDirectory      ? S_IFDIR
                              : kind == Kind::kSymbolicLink ? S_IFLNK
                                                            : S_IFREG);
      out.st_nlink = n.links;
      out.st_size = static_cast<off_t>(n.size());
      out.st_blocks = static_cast<blkcnt_t>((n.size() + 511) / 512);
      out.st_mtim = {n.modified_ns / 1'000'000'000, n.modified_ns % 1'000'000'000};
      out.st_atim = out.st_ctim = out.st_mtim;
      break;
    }
  }
}

int64_t Kernel::stat_at(uint64_t dirfd, uint64_t path, uint64_t flags, struct stat& out) const {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  if (name->empty() && (flags & AT_EMPTY_PATH)) {
    if (static_cast<int32_t>(dirfd) == AT_FDCWD) {
      stat_node(Kind::kDirectory, state_.directory, out);
      return 0;
    }
    const FileTable::Description* d = state_.files->get(dirfd);
    if (d == nullptr) return -EBADF;
    stat_node(d->kind, d->node, out);
    return 0;
  }
  Tmpfs::Found found;
  bool follow = (flags & AT_SYMLINK_NOFOLLOW) == 0;
  if (int64_t error = find_at(dirfd, *name, follow, found); error < 0) return error;
  if (found.node == 0) return -ENOENT;
  stat_node(state_.fs->node(found.node).kind, found.node, out);
  return 0;
}

// On x86-64 the C library's struct stat is the kernel's.
int64_t Kernel::put_stat(uint64_t address, const struct stat& from) {
  return space_.put(address, from) ? 0 : -EFAULT;
}

int64_t Kernel::sys_stat(const Syscall& c) {
  struct stat s;
  if (int64_t error = stat_at(AT_FDCWD, c.args[0], 0, s); error < 0) return error;
  return put_stat(c.args[1], s);
}

int64_t Kernel::sys_lstat(const Syscall& c) {
  struct stat s;
  if (int64_t error = stat_at(AT_FDCWD, c.args[0], AT_SYMLINK_NOFOLLOW, s); error < 0) return error;
  return put_stat(c.args[1], s);
}

int64_t Kernel::sys_fstat(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  struct stat s;
  stat_node(d->kind, d->node, s);
  return put_stat(c.args[1], s);
}

int64_t Kernel::sys_newfstatat(const Syscall& c) {
  struct stat s;
  if (int64_t error = stat_at(c.args[0], c.args[1], c.args[3], s); error < 0) return error;
  return put_stat(c.args[2], s);
}

int64_t Kernel::sys_statx(const Syscall& c) {
  struct stat s;
  if (int64_t error = stat_at(c.args[0], c.args[1], c.args[2], s); error < 0) return error;
  struct statx x = {};
  x.stx_mask = STATX_BASIC_STATS;
  x.stx_blksize = static_cast<uint32_t>(s.st_blksize);
  x.stx_nlink = static_cast<uint32_t>(s.st_nlink);
  x.stx_mode = static_cast<uint16_t>(s.st_mode);
  x.stx_ino = s.st_ino;
  x.stx_size = static_cast<uint64_t>(s.st_size);
  x.stx_blocks = static_cast<uint64_t>(s.st_blocks);
  x.stx_atime.tv_sec = x.stx_ctime.tv_sec = x.stx_mtime.tv_sec = s.st_mtim.tv_sec;
  x.stx_atime.tv_nsec = x.stx_ctime.tv_nsec = x.stx_mtime.tv_nsec =
      static_cast<uint32_t>(s.st_mtim.tv_nsec);
  x.stx_rdev_major = major(s.st_rdev);
  x.stx_rdev_minor = minor(s.st_rdev);
  return space_.put(c.args[4], x) ? 0 : -EFAULT;
}

int64_t Kernel::sys_access(const Syscall& c) {
  struct stat s;
  return stat_at(AT_FDCWD, c.args[0], 0, s);
}

int64_t Kernel::sys_faccessat(const Syscall& c) {
  struct stat s;
  return stat_at(c.args[0], c.args[1], 0, s);
}

int64_t Kernel::readlink_at(uint64_t dirfd, uint64_t path, uint64_t address, uint64_t bytes) {
  auto name = path_at(path);
  if (!name) return -EFAULT;
  if (static_cast<int64_t>(bytes) <= 0) return -EINVAL;
  std::string target;
  if (*name == kProcSelfExe) {
    target = name_.starts_with('/') ? name_ : "/" + name_;
  } else {
    Tmpfs::Found found;
    if (int64_t error = find_at(dirfd, *name, false, found); error < 0) return error;
    if (found.node == 0) return -ENOENT;
    const Tmpfs::Node& node = state_.fs->node(found.node);
    if (node.kind != Kind::kSymbolicLink) return -EINVAL;
    target = node.target;
  }
  uint64_t count = std::min<uint64_t>(bytes, target.size());
  uint8_t* at = space_.for_write(address, count);
  if (at == nullptr) return -EFAULT;
  std::memcpy(at, target.data(), count);
  return static_cast<int64_t>(count);
}

int64_t Kernel::sys_readlink(const Syscall& c) {
  return readlink_at(AT_FDCWD, c.args[0], c.args[1], c.args[2]);
}

int64_t Kernel::sys_readlinkat(const Syscall& c) {
  return readlink_at(c.args[0], c.args[1], c.args[2], c.args[3]);
}

}  // namespace sluice::vmm
