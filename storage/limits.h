#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::storage {

// How many bytes of waiting batches share one write. More would let the first of them wait for the
// last; a single batch that is larger is still written as one.
inline constexpr size_t kMergeBytesMax = 4u << 20;

// What the committer keeps allocated from a write to the next. It keeps nothing once it is idle.
inline constexpr size_t kWriteBufferBytesMax = 16u << 20;
static_assert(kMergeBytesMax <= kWriteBufferBytesMax);

// Bodies from this size on lie in blob files, so that compaction does not copy them.
inline constexpr uint64_t kBlobBytesMin = 64u << 10;

// Larger bodies are external (storage/body.h): a record is in RAM as a whole, a body need not be.
inline constexpr uint64_t kInlineBodyBytesMax = 256u << 10;
// Of an external body. With its key and RocksDB's headers a chunk fits an allocation of 256 KiB; a
// byte more would take one of 320.
inline constexpr size_t kChunkBytes = 252u << 10;

// What is read, checked and allocated at once where messages are read in order.
inline constexpr size_t kMessageBlockBytes = 64u << 10;

// Memory (each an upper bound of what the engine holds, whatever the backlog is).
inline constexpr size_t kMessageBufferBytes = 16u << 20;  // one memtable of messages
inline constexpr int kMessageBuffersMax = 3;              // being filled and being flushed
inline constexpr size_t kBodyBufferBytes = 16u << 20;     // one memtable of chunks
inline constexpr int kBodyBuffersMax = 2;
inline constexpr size_t kScheduleBufferBytes = 4u << 20;  // one memtable of delayed messages
inline constexpr size_t kSmallBufferBytes = 2u << 20;     // one memtable of any other kind
inline constexpr size_t kBlockCacheBytes = 8u << 20;
inline constexpr int kOpenFilesMax = 512;
inline constexpr int kBloomBitsPerId = 10;  // of deduplication: 1% are looked up in vain

// How much log a restart after a crash may have to replay.
inline constexpr uint64_t kWalBytesMax = 96u << 20;
static_assert(kWalBytesMax >
              kMessageBufferBytes * kMessageBuffersMax + kBodyBufferBytes * kBodyBuffersMax);

// How much a power cut may take where only the interval between syncs is bounded.
inline constexpr int kSyncIntervalMs = 1000;

// After that long without a commit what is in memory is flushed to tables.
inline constexpr int kIdleFlushMs = 3000;

// RocksDB's own log of what it does, in the data directory.
inline constexpr size_t kInfoLogBytesMax = 2u << 20;
inline constexpr size_t kInfoLogsMax = 3;

// A queue whose watermark moved on by this many messages since the last time has its files looked
// through for those that are consumed as a whole.
inline constexpr uint64_t kReclaimMessages = 50'000;

// What one write does at most about bodies that are done with, so that the messages which share it
// do not wait for a purge of thousands: references looked through, and chunks deleted.
inline constexpr size_t kSweepRefsMax = 1'000;
inline constexpr size_t kDropChunksMax = 4'096;

// Deleted chunks that share blob files with others: up to so many bytes are left there.
inline constexpr uint64_t kBodyGarbageBytesMin = 64u << 20;

}  // namespace sluice::storage
