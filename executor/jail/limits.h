#pragma once

#include <cstdint>

#include <sys/types.h>

#include "executor/pool/limits.h"
#include "executor/service/limits.h"
#include "executor/vmm/limits.h"

// Limits of the jail.
namespace sluice::executor::jail {

// The user and the group of an executor that root started, unless told otherwise. Debian reserves
// 65000..65533, and systemd takes 61184..65519 for users of its own, so nothing else is this one:
// no file is its, and no other process can signal it or be signalled by it.
inline constexpr uid_t kUserId = 65530;
// Neither root, nor the two values that mean "nobody" and "unchanged".
inline constexpr uid_t kUserIdMax = 65533;

// RLIMIT_NOFILE. A sandbox takes three descriptors.
inline constexpr uint64_t kDescriptorsMax = 512 << 10;
// RLIMIT_NPROC, which counts the threads of all executors of this user on the machine; new
// processes are not to be had at all. The broker's cgroup is what bounds a single executor.
inline constexpr uint64_t kThreadsOfUserMax = 32768;
// RLIMIT_FSIZE: a guest's memory file, with its page tables and descriptor tables.
inline constexpr uint64_t kGuestBytesMax = vmm::kMemoryBytesMax + vmm::kReserveBytesMax;
inline constexpr uint64_t kFileBytesMax = kGuestBytesMax + kGuestBytesMax / 64;

static_assert(kDescriptorsMax >= 8ull * kSandboxesMax);
static_assert(kThreadsOfUserMax >= 2ull * kSandboxesMax);
static_assert(kUserId != 0 && kUserId <= kUserIdMax);

}  // namespace sluice::executor::jail
