#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "executor/process/wire.h"

// What a program sees of a file system. A keeper makes the part that its image's processes share,
// read-only; an init adds the private part, in a mount namespace of its own. Each runs in a process
// that has root's rights in its own user namespace and nowhere else. Errors: kUnavailable.
namespace sluice::process {

// The calling process's root becomes an empty file system in memory, with a minimal /dev.
// The old one can not be reached any more.
Expected<void> enter_empty_root();
// Writes nothing more to the root; creates what programs rely on first. `exe` is what
// /proc/self/exe says.
Expected<void> seal_root(const std::string& exe);

// An init's side: /tmp, or without a root file system all of the root, is a private file system of
// so many bytes; /dev/stdin and its like are pipes.
struct PrivateRoot {
  Fd tmpfs;  // to look at how full it is
  Fd stdin_read, stdout_write, stderr_write;
  Fd stdin_write, stdout_read, stderr_read;  // the executor's
};
Expected<PrivateRoot> make_private_root(uint64_t tmpfs_bytes, bool has_rootfs);

// Maps the calling process's new user namespace: `inside` is the outer `outside_uid`,
// `outside_gid`. `proc` is a descriptor of the host's /proc.
Expected<void> map_ids(int proc, uint32_t inside, uint32_t outside_uid, uint32_t outside_gid);

}  // namespace sluice::process
