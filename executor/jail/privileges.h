#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.h"

// Ids, capabilities and resource limits.
namespace sluice::executor::jail {

bool has_capability(int capability);

// Resource limits (limits.h), hard ones. `count_is_ours` says whether the number of this user's
// processes may be limited: not where the broker's and others' processes count, too. Returns what
// was refused.
std::vector<std::string> set_limits(bool count_is_ours);

// Empties the bounding set and locks the securebits, so that no user id and no program file gives
// capabilities any more. Where it may not (an ordinary user), no_new_privs comes to the same.
void lock_privileges();

// From root to this user and group, real, effective and saved, with no further groups. Once done,
// doing it again is nothing. Errors: kUnavailable.
Expected<void> become(uid_t user);

// For an executor that keeps the user who started it: what that leaves it with.
std::vector<std::string> kept_identity();

// Gives all capabilities up, in every set but the bounding one. Errors: kUnavailable.
Expected<void> drop_capabilities();

}  // namespace sluice::executor::jail
