#pragma once

#include <cstddef>
#include <cstdint>

// Every limit of the VMM. What a function's owner sets (vmm::Limits in outcome.h) is checked
// against the ranges here; the rest bounds what a guest can make the host do.
namespace sluice::vmm {

inline constexpr uint64_t kPageBytes = 4096;

// Guest memory that a function may ask for.
inline constexpr uint64_t kMemoryBytesMin = 1ull << 20;
inline constexpr uint64_t kMemoryBytesMax = 16ull << 30;

// The image file itself, and where in the address space it may lie. The lower bound is Linux's
// default mmap_min_addr, so that a null dereference faults.
inline constexpr uint64_t kImageBytesMax = 256ull << 20;
inline constexpr uint64_t kImageAddressMin = 0x10000;
inline constexpr uint64_t kImageAddressMax = 1ull << 46;
inline constexpr uint64_t kProgramHeadersMax = 128;
// Where a position-independent image is put.
inline constexpr uint64_t kPieBase = 0x400000;

// The stack is kStackBytesMax, or an eighth of the memory where that is less.
inline constexpr uint64_t kStackBytesMax = 8ull << 20;
inline constexpr uint64_t kStackShare = 8;
inline constexpr uint64_t kStackGuardBytes = 16 * kPageBytes;
inline constexpr uint64_t kArgumentBytesMax = 128 << 10;
// Pages mapped beyond the break, so that a growing heap seldom changes page tables.
inline constexpr uint64_t kBreakSlackBytes = 256 << 10;
// A heap that shrinks by so many pages is overwritten instead of given back: getting a page again
// costs the program a fault of some 25 us, zeroing one some 0.1 us.
inline constexpr uint64_t kZeroByHandPagesMax = 1024;

// Time.
inline constexpr uint32_t kTimeoutMsMax = 24u * 3600 * 1000;

// How long a thread runs while others could.
inline constexpr int64_t kTurnNs = 2'000'000;
inline constexpr uint32_t kThreadsMax = 4096;
// A shorter sleep keeps its run slot.
inline constexpr int64_t kSleepWorthASlotNs = 1'000'000;

// What one system call may make the host do.
inline constexpr uint64_t kTransferBytesMax = 64ull << 20;  // longer reads and writes end short
inline constexpr uint64_t kIovecsMax = 1024;                // Linux's UIO_MAXIOV
inline constexpr uint64_t kPathBytesMax = 4096;             // Linux's PATH_MAX
inline constexpr uint64_t kNameBytesMax = 255;              // Linux's NAME_MAX
inline constexpr uint64_t kPollDescriptorsMax = 1024;
inline constexpr uint64_t kPipeBytesMax = 64 << 10;  // Linux's default
inline constexpr uint64_t kRandomBytesMax = 1 << 20;
inline constexpr uint64_t kDiscardStepBytes = 256ull << 20;  // between two looks at the clock

// The private file system.
inline constexpr uint32_t kTmpfsNodesMax = 4096;
inline constexpr uint64_t kTmpfsBytesMax = 4ull << 30;
inline constexpr uint32_t kSymbolicLinksMax = 40;  // on one path; Linux's MAXSYMLINKS

// A root file system. The archive is no longer than a frame.
inline constexpr uint32_t kRootFsNodesMax = 200'000;
inline constexpr uint32_t kOpenFilesMin = 4;
inline constexpr uint32_t kOpenFilesMax = 4096;
inline constexpr uint32_t kOutputBytesMax = 1u << 30;
inline constexpr uint32_t kLogBytesMax = 64u << 20;

// Reset. A page that so many calls in a row left as the snapshot has it is write-protected again
// and its copy freed; a call that dirtied more pages than kHotPagesMax frees them all at once.
inline constexpr uint8_t kCoolAfterCalls = 32;
inline constexpr uint32_t kCoolBatchPages = 16;
inline constexpr uint32_t kHotPagesMax = 2048;

// What the kernel keeps for a VM and its vCPU: 550 KiB were measured on a software KVM.
inline constexpr uint64_t kKernelBytesPerVm = 550 << 10;

// Address space beyond the memory limit, for a program that could not start without: the first
// step, each next is four times as much. The kernel keeps 2 MiB for each GiB of it.
inline constexpr uint64_t kReserveBytesMin = 1ull << 30;
inline constexpr uint64_t kReserveBytesMax = 4ull << 30;

static_assert(kMemoryBytesMin % kPageBytes == 0 && kMemoryBytesMax % kPageBytes == 0);
static_assert(kMemoryBytesMin / kStackShare >= kStackGuardBytes);
static_assert(kArgumentBytesMax <= kMemoryBytesMin / kStackShare);
static_assert(kImageAddressMax + 2 * kMemoryBytesMax + kReserveBytesMax < (1ull << 47));

}  // namespace sluice::vmm
