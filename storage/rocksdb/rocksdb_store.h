#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "base/error.h"
#include "storage/limits.h"
#include "storage/store.h"

namespace rocksdb {
class Env;
}

namespace sluice::storage {

// When a commit is called back. Whatever the mode, a process that is killed loses nothing that was
// called back, and a clean stop leaves everything synced; the modes differ in what a power cut may
// take.
enum class SyncMode {
  kAlways,    // once it is synced: nothing
  kInterval,  // once it is written; synced `sync_interval` later: the commits since then
  kNone,      // once it is written: whatever the kernel had not written by itself
};

struct RocksdbOptions {
  // Created where it is missing, parents included. One process at a time.
  std::string directory;
  // The file system and clock that RocksDB uses, for tests. Null: the machine's. Borrowed; must
  // outlive the store.
  rocksdb::Env* env = nullptr;
  // How much gathers in memory before it is written to a table; tests make it small.
  size_t message_buffer_bytes = kMessageBufferBytes;
  SyncMode sync = SyncMode::kAlways;
  // For SyncMode::kInterval: a commit is synced that long after it was called back, at the latest.
  std::chrono::milliseconds sync_interval{kSyncIntervalMs};
};

// Opens or creates the embedded engine; storage/FORMAT.md tells what lies in the directory and what
// recovery does. Blocks while the write-ahead log is replayed (kWalBytesMax of it at most).
//
// Errors: kUnavailable where another process holds the directory; kIo where it cannot be created,
// read or written; kInvalid where a newer Sluice wrote it or it is not a Sluice store; kCorrupt
// where confirmed data is damaged: opening would lose it silently.
Expected<std::unique_ptr<Store>> open_rocksdb(const RocksdbOptions& options);

}  // namespace sluice::storage
