#pragma once

#include <cstdint>
#include <string>

#include <rocksdb/env.h>

#include "base/error.h"

namespace sluice::storage {

// Reads the write-ahead logs before RocksDB does and tells a torn end from a hole.
//
// Each write is synced before the next one begins, so what a crash or a power cut can leave
// unfinished is the last write alone, in whatever order its pages reached the disk. Damage that
// nothing follows is such an end: it was never confirmed, and point-in-time recovery drops it.
// Damage that is followed by later writes is a hole in what was confirmed, and recovery would
// silently stop in front of it: kCorrupt. kIo where a log cannot be read.
//
// Where syncs come later (SyncMode), each write says how far the log was synced before it. Damage
// behind that is an end too, and drops what follows it.
//
// Damage to the very last write of a log cannot be told from a torn one. The layout read here is
// RocksDB's (its wiki, "Write Ahead Log File Format"), without recycled logs, which we do not use.
// The directory must not be in use.
//
// Returns the sequence number behind the last good write, 0 without one: recovery must reach it.
Expected<uint64_t> check_wal(rocksdb::Env* env, const std::string& directory);

}  // namespace sluice::storage
