#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.h"

// Namespaces, and a root directory with nothing in it.
namespace sluice::executor::jail {

// Whether this process has other threads than the calling one.
bool has_threads();

// Whether namespaces can be made without a user namespace (CAP_SYS_ADMIN).
bool can_administrate();

// A user namespace in which this process, with all capabilities, is `inside`; outside it stays who
// it is. Needs a process with one thread. Errors: kUnavailable with the system's reason.
Expected<void> enter_user_namespace(uid_t inside);

// Own mounts with an empty read-only root, network without any interface up, System V IPC, host
// name, cgroups. Each is tried, whatever the others did; returns what was refused and why.
//
// There is no PID namespace: it would need a parent process for each executor, and no system call
// that the filter lets through can name a process but its own.
std::vector<std::string> enter_namespaces();

}  // namespace sluice::executor::jail
