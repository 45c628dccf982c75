#pragma once

#include <cstdint>
#include <vector>

#include <linux/filter.h>

#include "base/error.h"

// The allow-list of system calls. A call on it is the kernel's to serve; some return a fixed error;
// of some the init is told first (it lets them pass); every other call is the init's to report, and
// ends the program.
namespace sluice::process {

// `watch`: kWatchStdin, kWatchProtocol. `exec_fd` may be executed, once: it is closed by that, and
// has a number that the program can not open. Errors: kUnavailable.
Expected<std::vector<sock_filter>> make_filter(uint32_t watch, int exec_fd,
                                               uint64_t watched_mapping_bytes);

// What the init makes of a call that it was told of.
enum class Told {
  kWaitsForInput,  // on the descriptor in its first argument
  kPolls,          // on some descriptors; in its second argument a number of them, or one to come
  kMaps,           // a large mapping; length in its second argument
  kGrowsMapping,   // old and new length in its second and third arguments
  kMakesThread,
  kFails,    // exit with a status, or a signal
  kRefused,  // gets `error`
  kForbidden,
};
Told told(uint64_t number, const uint64_t args[6], uint32_t watch, int& error);

}  // namespace sluice::process
