#pragma once

#include <span>
#include <string>

#include "base/error.h"

namespace sluice::process {

// Unpacks a tar archive into the working directory, which must be the calling process's root: a
// hostile archive then has nowhere else to go. Beyond that, entries with absolute paths lose the
// slash, and those that lead through ".." or a symbolic link are errors. Device files, sockets and
// pipes are passed over, as is what lies under /dev and /proc; set-id bits and owners are dropped.
// Errors: kInvalid for what is wrong with the archive, kLimit when it does not fit.
Expected<void> unpack_tar(std::span<const uint8_t> archive);

}  // namespace sluice::process
