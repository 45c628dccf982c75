#pragma once

#include <cstddef>
#include <cstdint>

#include "executor/vmm/limits.h"

// Limits of the executor's service: what a broker may send, and what is kept for it.
namespace sluice::executor {

// One frame: an image, or a call's input, and some room for the rest of its table.
inline constexpr uint32_t kFrameBytesMax = 320u << 20;
inline constexpr size_t kReadBytes = 256 << 10;

// Calls accepted and not yet started, and likewise loads. Beyond either, the socket is not read.
inline constexpr size_t kQueuedCallsMax = 65536;
inline constexpr size_t kQueuedBytesMax = 512ull << 20;
// Results made and not yet written. Beyond it, workers wait.
inline constexpr size_t kOutboxBytesMax = 128ull << 20;
inline constexpr size_t kFramesPerWrite = 256;  // two iovecs each; Linux takes 1024

// Threads that load functions, which runs them up to their first input. Half of them for one owner.
inline constexpr unsigned kLoaders = 4;
inline constexpr unsigned kLoadersShare = kLoaders / 2;
inline constexpr size_t kQueuedLoadsMax = 4096;

// Calls in a sandbox at the same time: "workers" where people see it.
inline constexpr unsigned kWorkersMax = 256;
inline constexpr unsigned kWorkersPerCpu = 4;
// How many of them one function may take, per CPU. Fewer than all: so functions whose calls loop or
// sleep until their timeout do not hold up the others. More than one: entering and leaving a VM may
// put the thread to sleep (a software KVM does), which is when another call can run.
inline constexpr unsigned kSharePerCpu = 2;

static_assert(kFrameBytesMax > vmm::kImageBytesMax);
static_assert(kQueuedBytesMax > kFrameBytesMax);
static_assert(kFramesPerWrite * 2 <= 1024);
static_assert(kLoadersShare > 0);

}  // namespace sluice::executor
