#pragma once

#include <cstdint>

// Every limit of the process sandbox beyond those that it shares with the VMM (vmm/limits.h), which
// hold here too.
namespace sluice::process {

// An image's root file system once it is unpacked. Its pages stay in memory while the image does.
inline constexpr uint64_t kRootfsBytesMax = 2ull << 30;
inline constexpr uint64_t kRootfsEntriesMax = 200'000;
// How long unpacking and preparing an image may take, its initialisation not included.
inline constexpr int64_t kPrepareNs = 60'000'000'000;
// How long the start of one process may take up to its exec, on a machine that has other work.
inline constexpr int64_t kStartNs = 20'000'000'000;
// How long a killed program may take to be gone. It is killed for good either way.
inline constexpr int64_t kKillNs = 5'000'000'000;

inline constexpr uint32_t kThreadsMax = 4096;
inline constexpr uint32_t kCpuMsMax = 24u * 3600 * 1000;
// Entries of a program's private file system, as in the VMM.
inline constexpr uint32_t kTmpfsNodesMax = 4096;
// The descriptor that a program is executed by is the first that it may not open itself, but not
// one that its init uses.
inline constexpr uint32_t kExecDescriptorMin = 64;
// What the kernel keeps for a process, its init, their namespaces and mounts; measured as 420 KiB.
inline constexpr uint64_t kKernelBytesPerProcess = 420 << 10;
// Single mappings from this size on are looked at, to tell a refused one from other failures.
inline constexpr uint64_t kWatchedMappingBytes = 1 << 20;
// A failed program that used so much of its memory (in eighths) failed for want of memory.
inline constexpr uint64_t kMemoryFullEighths = 7;
// The program's text parts on the wire to the spawner: names, arguments and environment.
inline constexpr uint64_t kConfigBytesMax = 1 << 20;

static_assert(kWatchedMappingBytes % 4096 == 0);

}  // namespace sluice::process
