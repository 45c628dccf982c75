#include "executor/jail/namespaces.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor/jail/privileges.h"

namespace sluice::executor::jail {
namespace {

// A directory that each system has, and that the executor needs no more.
constexpr char kMountPoint[] = "/dev";

std::string because() { return std::string(" (") + std::strerror(errno) + ")"; }

bool write_file(const char* path, const std::string& text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t put = write(fd, text.data(), text.size());
  int saved = errno;
  close(fd);
  errno = saved;
  return put == static_cast<ssize_t>(text.size());
}

// The root becomes a tmpfs without a single entry, in which none can be made.
bool empty_root() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  if (mount("empty", kMountPoint, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
            "size=4k,nr_inodes=1,mode=0555") != 0) {
    return false;
  }
  if (chdir(kMountPoint) != 0) return false;
  // The old root comes to lie over the new one, and goes, with all that is mounted in it.
  if (syscall(SYS_pivot_root, ".", ".") == 0) {
    return umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
  }
  // An initial RAM file system can not be taken away, only be left.
  return chroot(".") == 0 && chdir("/") == 0;
}

}  // namespace

bool has_threads() {
  // Nothing is done by it; it is an error with more than one thread.
  if (unshare(CLONE_THREAD) == 0) return false;
  if (errno == EINVAL) return true;
  std::error_code error;  // unshare itself is refused
  std::filesystem::directory_iterator tasks("/proc/self/task", error);
  return !error && std::distance(tasks, {}) > 1;
}

bool can_administrate() { return has_capability(CAP_SYS_ADMIN); }

Expected<void> enter_user_namespace(uid_t inside) {
  uid_t user = geteuid();
  gid_t group = getegid();
  // Who has changed his user can not write to files of his own under /proc but when dumpable.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  if (unshare(CLONE_NEWUSER) != 0) {
    return fail(Code::kUnavailable, std::string("a user namespace: ") + std::strerror(errno));
  }
  auto line = [inside](unsigned outside) {
    return std::to_string(inside) + " " + std::to_string(outside) + " 1";
  };
  // Linux asks for "deny" before it lets an ordinary user map a group.
  if (!write_file("/proc/self/setgroups", "deny") ||
      !write_file("/proc/self/uid_map", line(user)) ||
      !write_file("/proc/self/gid_map", line(group))) {
    return fail(Code::kUnavailable, std::string("a user namespace's ids: ") + std::strerror(errno));
  }
  return {};
}

std::vector<std::string> enter_namespaces() {
  struct Namespace {
    int flag;
    const char* name;
  };
  static constexpr Namespace kNamespaces[] = {{CLONE_NEWNET, "network"},
                                              {CLONE_NEWIPC, "IPC"},
                                              {CLONE_NEWUTS, "UTS"},
                                              {CLONE_NEWCGROUP, "cgroup"}};
  std::vector<std::string> missing;
  for (const Namespace& wanted : kNamespaces) {
    if (unshare(wanted.flag) != 0) {
      missing.push_back(std::string("no ") + wanted.name + " namespace" + because());
    }
  }
  if (unshare(CLONE_NEWNS) != 0) {
    missing.push_back("no mount namespace and no empty root directory" + because());
  } else if (!empty_root()) {
    missing.push_back("no empty root directory" + because());
  }
  return missing;
}

}  // namespace sluice::executor::jail
