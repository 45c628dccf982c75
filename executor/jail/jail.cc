#include "executor/jail/jail.h"

#include <csignal>
#include <iterator>

#include <sys/prctl.h>
#include <unistd.h>

#include "executor/jail/filter.h"
#include "executor/jail/namespaces.h"
#include "executor/jail/privileges.h"
#include "executor/jail/runtime.h"

namespace sluice::executor::jail {

Expected<std::vector<std::string>> enter(const Options& options) {
  std::vector<std::string> missing;
  auto note = [&missing](std::vector<std::string> more) {
    std::move(more.begin(), more.end(), std::back_inserter(missing));
  };
  // Ids, capabilities and most namespaces are a thread's own: another one would stay outside.
  if (has_threads()) return fail(Code::kInternal, "the jail is entered with more than one thread");
  pid_t parent = getppid();
  bool root = geteuid() == 0;
  bool private_count = false;  // of this user's threads
  if (can_administrate()) {
    note(enter_namespaces());
  } else {
    // A container's root, as a rule. Its id must not be what the user namespace maps to.
    if (root) {
      if (auto done = become(options.user); !done) return std::unexpected(done.error());
    }
    auto entered = enter_user_namespace(options.user);
    if (entered) {
      private_count = true;
      note(enter_namespaces());
    } else {
      note({"no namespaces and no empty root directory (" + entered.error().message + ")"});
    }
  }
  note(set_limits(root || private_count));
  lock_privileges();
  if (root) {
    if (auto done = become(options.user); !done) return std::unexpected(done.error());
  } else {
    note(kept_identity());
  }
  if (auto done = drop_capabilities(); !done) return std::unexpected(done.error());
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return fail(Code::kUnavailable, "this kernel has no no_new_privs");
  }
  // A change of user has taken it back. A parent that ended before is not told of any more.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) {
    return fail(Code::kUnavailable, "the broker has ended");
  }
  prepare_runtime();
  if (auto done = install_filter(options.socket_fd, options.sandboxes); !done)
    return std::unexpected(done.error());
  return missing;
}

}  // namespace sluice::executor::jail
