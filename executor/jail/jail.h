#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "executor/jail/limits.h"
#include "executor/jail/rules.h"

// The jail of the executor's process: what a hostile program that has broken out of its sandbox,
// and runs as the executor, still can not do. README.md has the whole list.
namespace sluice::executor::jail {

struct Options {
  // The broker's socket: with KVM's sandboxes the only descriptor that may be read and sent on.
  int socket_fd = 3;
  Sandboxes sandboxes = Sandboxes::kKvm;
  // The user and the group to become, where root starts it.
  uid_t user = kUserId;
};

// Puts the calling process into the jail, for good. To be called once, with one thread only, after
// everything that has to be opened is open, and before the first byte from outside is read. The
// process ends with its parent from then on.
//
// Returns what this system did not allow, a clause each, such as "no network namespace (Operation
// not permitted)"; empty when all of the jail is there. Errors: kUnavailable when there is no
// seccomp filter, or root's rights can not be given up; kInternal when there are other threads. The
// process must not go on then.
Expected<std::vector<std::string>> enter(const Options& options);

}  // namespace sluice::executor::jail
