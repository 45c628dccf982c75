#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <rocksdb/env.h>

#include "base/error.h"

namespace sluice::storage {

// What the write-ahead logs hold.
struct WalSummary {
  // Behind the last good write, 0 without one: recovery must reach it.
  uint64_t next_sequence = 0;
  bool empty = true;  // no write at all
  // Where the logs begin; 0 where damage hides it.
  uint64_t first_sequence = 0;
  uint64_t oldest_log = 0;  // its number, 0 without any
  // Where the logs end: what follows was not synced when it was written, and recovery might step
  // over the gap in front of it. See cut_wal().
  struct Cut {
    uint64_t log;
    uint64_t bytes;
  };
  std::optional<Cut> cut;
};

// Reads the write-ahead logs before RocksDB does and tells a torn end from a hole.
//
// Each write is synced before the next one begins, so what a crash or a power cut can leave
// unfinished is the last write alone, in whatever order its pages reached the disk. Damage that
// nothing follows is such an end: it was never confirmed, and point-in-time recovery drops it.
// Damage that is followed by later writes is a hole in what was confirmed, and recovery would
// silently stop in front of it: kCorrupt. kIo where a log cannot be read.
//
// Where syncs come later (SyncMode), each write says how far the log was synced before it. Damage
// behind that is an end too, and so is a log that ends too early: the next one goes on with changes
// that do not follow. What lies behind such an end has to go before RocksDB sees it: it takes
// zeros for the end of a log, and goes on with the next.
//
// Logs have their size before they are written (open_engine()), so zeros up to the end of one are
// no damage as long as the next one goes on where they begin.
//
// Damage to the very last write of a log cannot be told from a torn one. Logs below `first_log` are
// done with and are not looked at. The layout read here is RocksDB's (log_format.h). The directory
// must not be in use.
Expected<WalSummary> check_wal(rocksdb::Env* env, const std::string& directory, uint64_t first_log);

// Cuts the log there and removes all later ones, the last first: cut short itself, it leaves what
// check_wal() tells the same of. kIo where that fails.
Expected<> cut_wal(rocksdb::Env* env, const std::string& directory, const WalSummary::Cut& cut);

}  // namespace sluice::storage
