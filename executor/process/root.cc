#include "executor/process/root.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor/process/limits.h"

namespace sluice::process {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr const char* kDevices[] = {"null", "zero", "random", "urandom"};

std::unexpected<Error> refused(const char* what) {
  return fail(Code::kUnavailable, fmt::format("{}: {}", what, std::strerror(errno)));
}

bool mount_tmpfs(const char* at, const std::string& options, unsigned long flags = 0) {
  return mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV | flags, options.c_str()) == 0;
}

bool remount_read_only(const char* at) {
  return mount(nullptr, at, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
               nullptr) == 0;
}

bool make_file(const char* path) {
  Fd file(open(path, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0666));
  return static_cast<bool>(file);
}

// The folder is the new root; the old one goes.
Expected<void> pivot_to(const char* folder) {
  if (chdir(folder) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
      umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) {
    return refused("the root could not be changed");
  }
  return {};
}

// An image must not turn the places that are mounted on into links.
Expected<void> make_folder(const char* path) {
  if (mkdir(path, 0755) != 0 && errno != EEXIST) return refused(path);
  struct stat status;
  if (lstat(path, &status) != 0) return refused(path);
  if (!S_ISDIR(status.st_mode)) {
    return fail(Code::kInvalid,
                fmt::format("{} of the root file system is no folder; make it one", path));
  }
  return {};
}

Expected<void> make_devices() {
  if (!mount_tmpfs("dev", "mode=0755,size=64k,nr_inodes=64")) return refused("/dev");
  for (const char* name : kDevices) {
    std::string from = std::string("/dev/") + name, to = std::string("dev/") + name;
    if (!make_file(to.c_str()) || mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      return refused(from.c_str());
    }
  }
  bool made = mkdir("dev/stdio", 0755) == 0 && symlink("stdio/0", "dev/stdin") == 0 &&
              symlink("stdio/1", "dev/stdout") == 0 && symlink("stdio/2", "dev/stderr") == 0;
  // Before an image is unpacked, whose own /dev is not used.
  if (!made || !remount_read_only("dev")) return refused("/dev");
  return {};
}

}  // namespace

Expected<void> enter_empty_root() {
  // Nothing that is mounted here may appear elsewhere.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return refused("/");
  // Mounted on a folder that each system has; it is another only in this namespace.
  auto options = fmt::format("mode=0755,size={},nr_inodes={}", kRootfsBytesMax, kRootfsEntriesMax);
  if (!mount_tmpfs("/tmp", options)) return refused("the root's file system in memory");
  if (chdir("/tmp") != 0 || mkdir("dev", 0755) != 0) return refused("the root's file system");
  if (auto made = make_devices(); !made) return made;
  return pivot_to("/tmp");
}

Expected<void> seal_root(const std::string& exe) {
  for (const char* path : {"/tmp", "/proc", "/proc/self"}) {
    if (auto made = make_folder(path); !made) return made;
  }
  if (chmod("/tmp", 0777) != 0) return refused("/tmp");
  unlink("/proc/self/exe");
  if (!exe.empty() && symlink(exe.c_str(), "/proc/self/exe") != 0) return refused("/proc/self/exe");
  if (!remount_read_only("/")) return refused("a read-only root");
  return {};
}

namespace {

Expected<void> mount_private_root(uint64_t tmpfs_bytes, bool is_root) {
  const char* at = "/tmp";
  uint64_t pages = (tmpfs_bytes + kPageBytes - 1) / kPageBytes;
  // A size of 0 would mean no limit; a private root can not be without its folders.
  auto options = fmt::format("mode={},size={},nr_inodes={}", is_root ? "0755" : "0777",
                             std::max<uint64_t>(pages, 1) * kPageBytes, kTmpfsNodesMax + 16);
  if (!mount_tmpfs(at, options)) return refused("the private file system");
  if (is_root) {
    if (chdir(at) != 0 || mkdir("tmp", 0777) != 0 || mkdir("dev", 0755) != 0 ||
        mkdir("proc", 0755) != 0 || mount("/dev", "dev", nullptr, MS_BIND | MS_REC, nullptr) != 0 ||
        mount("/proc", "proc", nullptr, MS_BIND | MS_REC, nullptr) != 0) {
      return refused("the private root");
    }
    if (auto changed = pivot_to(at); !changed) return changed;
  }
  if (pages == 0 && !remount_read_only(is_root ? "/" : at)) return refused("an empty file system");
  return {};
}

}  // namespace

Expected<PrivateRoot> make_private_root(uint64_t tmpfs_bytes, bool has_rootfs) {
  if (auto made = mount_private_root(tmpfs_bytes, !has_rootfs); !made) {
    return std::unexpected(made.error());
  }
  PrivateRoot root;
  root.tmpfs = Fd(open(has_rootfs ? "/tmp" : "/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.tmpfs) return refused("the private file system");

  if (!mount_tmpfs("/dev/stdio", "mode=0755,size=4k,nr_inodes=8", MS_NOEXEC)) {
    return refused("/dev/stdio");
  }
  struct Stream {
    const char* path;
    Fd& reading;
    Fd& writing;
  };
  for (Stream s : {Stream{"/dev/stdio/0", root.stdin_read, root.stdin_write},
                   Stream{"/dev/stdio/1", root.stdout_read, root.stdout_write},
                   Stream{"/dev/stdio/2", root.stderr_read, root.stderr_write}}) {
    if (mkfifo(s.path, 0600) != 0) return refused(s.path);
    // A reader that does not wait for its writer has to come first.
    s.reading = Fd(open(s.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    s.writing = Fd(open(s.path, O_WRONLY | O_CLOEXEC));
    if (!s.reading || !s.writing) return refused(s.path);
  }
  // The flag belongs to the side that the executor polls.
  if (fcntl(root.stdin_read.get(), F_SETFL, 0) != 0 ||
      fcntl(root.stdin_write.get(), F_SETFL, O_NONBLOCK) != 0) {
    return refused("/dev/stdio");
  }
  if (!remount_read_only("/dev/stdio")) return refused("/dev/stdio");
  return root;
}

Expected<void> map_ids(int proc, uint32_t inside, uint32_t outside_uid, uint32_t outside_gid) {
  auto put = [&](const char* file, const std::string& text) {
    Fd at(openat(proc, (std::string("self/") + file).c_str(), O_WRONLY | O_CLOEXEC));
    return at && write(at.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  };
  if (!put("setgroups", "deny") || !put("uid_map", fmt::format("{} {} 1", inside, outside_uid)) ||
      !put("gid_map", fmt::format("{} {} 1", inside, outside_gid))) {
    return refused("the ids of a user namespace");
  }
  return {};
}

}  // namespace sluice::process
