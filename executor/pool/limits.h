#pragma once

#include <cstddef>
#include <cstdint>

// Limits of the pools: threads, sandboxes, time.
namespace sluice::executor {

// The stack of a sandbox's thread. The kernel gives what is touched of it, some 16 KiB.
inline constexpr size_t kSandboxStackBytes = 512 << 10;

// Sandboxes in all, each of them a thread, and of one function, where it sleeps most of the time.
inline constexpr size_t kSandboxesMax = 8192;
inline constexpr size_t kSandboxesPerFunctionMax = 1024;
// Sandboxes that are being made at the same time, per CPU; and how much of that is one function's.
inline constexpr size_t kMakingPerCpu = 2;
inline constexpr size_t kMakingShare = 2;  // the half

// What a sandbox is taken to need before one of its function has been measured.
inline constexpr uint64_t kSandboxBytesGuess = 1 << 20;

// A function without calls for so long keeps its snapshot alone.
inline constexpr int64_t kIdleSeconds = 60;
// A sandbox that the demand does not ask for goes when nobody has used it for so long. Sooner, and
// the peaks of one second would be paid for again in the next.
inline constexpr int64_t kSpareSeconds = 5;
// After the system refused a sandbox, when to ask for the next, unless a call has no other chance.
inline constexpr int64_t kRetryMakingMs = 100;
// While memory is short, how often the end of a call makes somebody look for it.
inline constexpr int64_t kGiveBackUs = 1000;
// And how many of those that wait for some try then.
inline constexpr size_t kGiveBackTo = 4;

// How often targets are looked at: while calls come, and while there is anything to give up.
inline constexpr int64_t kTickMs = 100;
inline constexpr int64_t kSlowTickMs = 1000;
inline constexpr int64_t kStatsMs = 1000;

// Arrivals are averaged over both; the higher rate counts. So a rise is seen at once, and a pause
// between two peaks costs nothing.
inline constexpr double kFastRateSeconds = 1;
inline constexpr double kSlowRateSeconds = 20;
// Service time is averaged over so long.
inline constexpr double kServiceSeconds = 20;

static_assert(kTickMs <= kSlowTickMs);
static_assert(kSandboxesPerFunctionMax <= kSandboxesMax);
static_assert(kSpareSeconds < kIdleSeconds);

}  // namespace sluice::executor
