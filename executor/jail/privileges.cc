#include "executor/jail/privileges.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor/jail/limits.h"

namespace sluice::executor::jail {
namespace {

struct Capabilities {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
};

// Lowers a limit for good; one that is lower already stays.
bool lower_limit(__rlimit_resource resource, rlim_t to) {
  rlimit limit;
  if (getrlimit(resource, &limit) != 0) return false;
  limit.rlim_max = std::min(limit.rlim_max, to);
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(resource, &limit) == 0;
}

std::string because() { return std::string(" (") + std::strerror(errno) + ")"; }

}  // namespace

bool has_capability(int capability) {
  Capabilities held;
  if (syscall(SYS_capget, &held.header, held.sets) != 0) return false;
  return (held.sets[capability / 32].effective >> (capability % 32) & 1) != 0;
}

std::vector<std::string> set_limits(bool count_is_ours) {
  std::vector<std::string> missing;
  // What a sandbox held must not end up in a file.
  if (!lower_limit(RLIMIT_CORE, 0)) missing.push_back("no limit of core files" + because());
  // The soft limit comes up to the hard one: 1,024 as a rule would do for 300 sandboxes.
  if (!lower_limit(RLIMIT_NOFILE, kDescriptorsMax)) {
    missing.push_back("no limit of open files" + because());
  }
  if (!lower_limit(RLIMIT_FSIZE, kFileBytesMax)) {
    missing.push_back("no limit of file sizes" + because());
  }
  signal(SIGXFSZ, SIG_IGN);  // an errno instead, which fails one call
  if (count_is_ours && !lower_limit(RLIMIT_NPROC, kThreadsOfUserMax)) {
    missing.push_back("no limit of threads" + because());
  }
  return missing;
}

void lock_privileges() {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return;
  }
  // SECBIT_NO_SETUID_FIXUP is locked where it is, off: giving root up takes its capabilities along.
  prctl(PR_SET_SECUREBITS,
        SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED |
            SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
            SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
        0, 0, 0);
}

Expected<void> become(uid_t user) {
  uid_t real, effective, saved;
  if (getresuid(&real, &effective, &saved) == 0 && real == user && effective == user &&
      saved == user) {
    return {};
  }
  if (setgroups(0, nullptr) != 0 || setresgid(user, user, user) != 0 ||
      setresuid(user, user, user) != 0) {
    return fail(Code::kUnavailable,
                "root's rights can not be given up: becoming user " + std::to_string(user) +
                    " failed: " + std::strerror(errno) +
                    "; leave CAP_SETUID and CAP_SETGID, or start the broker as another user");
  }
  return {};
}

std::vector<std::string> kept_identity() {
  std::vector<std::string> kept;
  kept.push_back("no user of its own (not started by root)");
  std::vector<gid_t> groups(static_cast<size_t>(std::max(0, getgroups(0, nullptr))));
  int count = getgroups(static_cast<int>(groups.size()), groups.data());
  groups.resize(static_cast<size_t>(std::max(0, count)));
  std::erase(groups, getegid());
  if (!groups.empty()) {
    kept.push_back("still in " + std::to_string(groups.size()) + " further groups of its user");
  }
  return kept;
}

Expected<void> drop_capabilities() {
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  Capabilities none;
  if (syscall(SYS_capset, &none.header, none.sets) != 0) {
    return fail(Code::kUnavailable,
                std::string("capabilities can not be given up: ") + std::strerror(errno));
  }
  return {};
}

}  // namespace sluice::executor::jail
