#pragma once

#include "base/error.h"
#include "executor/jail/rules.h"

// The seccomp filter: the system calls that the executor needs after its start, and no others.
namespace sluice::executor::jail {

// For all threads that there are and will be, for good. Whatever is not on the list kills the
// process at once (SIGSYS). `socket_fd` is the one descriptor to read from and to send on. Sets
// no_new_privs. Errors: kUnavailable, with what the kernel lacks.
Expected<void> install_filter(int socket_fd, Sandboxes sandboxes = Sandboxes::kKvm);

}  // namespace sluice::executor::jail
