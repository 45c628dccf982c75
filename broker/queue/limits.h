#pragma once

#include <cstddef>
#include <cstdint>

// What a queue keeps in RAM, and how it writes.
namespace sluice::broker {

// Each of a queue's two windows, in bytes of records, while memory is there for it; and where it
// is not.
inline constexpr size_t kWindowBytes = 4u << 20;
inline constexpr size_t kWindowMinBytes = 16u << 10;
// Backlogs that give memory back in one turn of the loop.
inline constexpr size_t kShrinksPerTurn = 64;

// One read of messages that are only on disk.
inline constexpr size_t kPageCountMax = 8192;
inline constexpr size_t kPageBytesMax = 1u << 20;
// How many messages that were given back are read again at once.
inline constexpr size_t kReturnedPageCount = 256;

// Of each message group that is held, how many of the messages behind the holder are known without
// asking the store's index; and how many may be passed over to find one for a single fetch.
inline constexpr size_t kWaitingKnownMax = 64;
inline constexpr size_t kPassedOverPerFetch = 16'384;
// What is kept in RAM of messages that were passed over; others are read again. While memory is
// short: kWindowMinBytes.
inline constexpr size_t kPassedOverBytes = 1u << 20;

// How many messages a length limit drops in one turn of the loop, and how many dead ones are
// published elsewhere.
inline constexpr size_t kDropsPerTurn = 256;
inline constexpr size_t kDeathsPerTurn = 256;

// After so many appends the store is told their sum anew: a start reads no more to count them.
inline constexpr uint32_t kUnsummedCountMax = 256;
inline constexpr size_t kUnsummedBytesMax = 256u << 10;

// The earliest delayed messages of a queue that are in RAM, and in bytes of records.
inline constexpr size_t kScheduleCountMax = 2048;
inline constexpr size_t kScheduleBytesMax = 512u << 10;
// Messages that are due, or that have expired, and leave in one turn of the loop; and how much may
// wait to be written before more of the former do.
inline constexpr size_t kReleasesPerTurn = 1024;
inline constexpr size_t kExpiriesPerTurn = 1024;
inline constexpr size_t kReleaseBytesMax = 4u << 20;

// How long a jump of the wall clock may go unnoticed.
inline constexpr int64_t kClockCheckMs = 5000;

// A window of deduplication ids is forgotten in so many parts.
inline constexpr uint64_t kDedupMarksMax = 32;

// How long changes may gather that nobody waits for, and how many bytes of messages.
inline constexpr uint64_t kQuietCommitMs = 5;
inline constexpr size_t kQuietBytesMax = 1u << 20;

}  // namespace sluice::broker
