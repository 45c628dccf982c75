#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::broker::dispatch {

// One frame from the executor: the largest output, its log, and room for the rest.
inline constexpr size_t kFrameMaxBytes = 160u << 20;

// A message that a function is called with: it is in RAM as a whole, here and in the executor.
inline constexpr uint64_t kInputMaxBytes = 64u << 20;
// Of calls with external bodies, how many bytes are in RAM at the same time; others wait.
inline constexpr uint64_t kLargeInputsMaxBytes = 256u << 20;

inline constexpr size_t kImageMaxBytes = 64u << 20;
inline constexpr uint64_t kMemoryMinBytes = 4u << 20;
inline constexpr uint64_t kMemoryMaxBytes = 4ull << 30;
inline constexpr uint32_t kTimeoutMaxMs = 15 * 60 * 1000;
inline constexpr uint32_t kOutputMinBytes = 16;
inline constexpr uint32_t kOutputMaxBytes = 128u << 20;
inline constexpr uint32_t kLogMaxBytes = 16u << 20;
inline constexpr uint32_t kOpenFilesMin = 3;
inline constexpr uint32_t kOpenFilesMax = 4096;
inline constexpr uint32_t kThreadsMax = 1024;
inline constexpr uint64_t kTmpfsMaxBytes = 4ull << 30;
// A root file system: a tar archive. It is in RAM while it is deployed or loaded, not otherwise.
inline constexpr size_t kRootfsMaxBytes = 256u << 20;
inline constexpr size_t kPathMaxBytes = 4096;
// Of functions that are being loaded at the same time; others wait. A larger one is loaded alone.
inline constexpr uint64_t kLoadsMaxBytes = 128u << 20;
inline constexpr size_t kArgumentsMax = 256;
inline constexpr size_t kArgumentsMaxBytes = 128u << 10;
inline constexpr size_t kNameMaxBytes = 255;

inline constexpr uint32_t kConcurrencyMax = 1024;
inline constexpr uint32_t kBatchSizeMax = 10'000;
inline constexpr uint32_t kBatchWindowMaxMs = 300'000;
// Records that a subscription's calls have in RAM; with more it takes none, unless nothing is out.
inline constexpr uint64_t kBatchesMaxBytes = 256u << 20;
inline constexpr uint32_t kAttemptsMax = 1'000'000;
inline constexpr uint32_t kBackoffMaxMs = 24 * 3600 * 1000;
// Failed messages that a subscription holds for their next attempt; with more it takes none.
inline constexpr size_t kWaitingRetryMax = 1000;

// The function protocol (sdk/PROTOCOL.md, "Limits"): an invocation frame, and the items of an
// answer, those of its outputs included.
inline constexpr size_t kInvocationMaxBytes = 64u << 20;
inline constexpr size_t kAnswerItemsMax = 65'536;
// AMQP's short strings: exchanges, routing keys, names of headers.
inline constexpr size_t kShortTextMaxBytes = 255;
// Ten years; a sum with the time of day stays far from overflow.
inline constexpr uint64_t kDelayMaxMs = 10ull * 366 * 24 * 3600 * 1000;
// What a program says of its own failure goes into headers and answers: the start of it.
inline constexpr size_t kMessageMaxBytes = 4096;

// What is to be sent to the executor beyond this goes to its socket piece by piece.
inline constexpr size_t kSendPieceBytes = 1u << 20;

// How much of a failed call's stderr goes into the dead-letter headers: the end of it.
inline constexpr size_t kDeadLetterLogBytes = 4096;
// Calls that a function's log keeps.
inline constexpr size_t kLogEntriesMax = 1000;
inline constexpr size_t kLogEntryMaxBytes = 64u << 10;

inline constexpr uint64_t kRestartMinMs = 100;
inline constexpr uint64_t kRestartMaxMs = 5'000;
// An executor that lived so long was healthy: the next restart is quick again.
inline constexpr uint64_t kHealthyMs = 10'000;

// What the executor writes to its log.
inline constexpr size_t kExecutorLineMaxBytes = 1024;
inline constexpr unsigned kExecutorLinesPerSecond = 50;

// The executor's control group. Its memory: of four parts of the machine's, three; the broker and
// all else has the rest when an executor takes what it can get.
inline constexpr uint64_t kExecutorMemoryParts = 3;
inline constexpr uint64_t kMachineMemoryParts = 4;
// Its threads, and processes where it has any.
inline constexpr uint32_t kExecutorTasksMax = 10'000;

static_assert(kExecutorMemoryParts < kMachineMemoryParts);
static_assert(kOutputMaxBytes + kLogMaxBytes < kFrameMaxBytes);
static_assert(kInputMaxBytes <= kLargeInputsMaxBytes);
static_assert(kInvocationMaxBytes <= kLargeInputsMaxBytes);
static_assert(kInvocationMaxBytes <= kBatchesMaxBytes);
static_assert(kLogEntryMaxBytes >= kDeadLetterLogBytes);

}  // namespace sluice::broker::dispatch
