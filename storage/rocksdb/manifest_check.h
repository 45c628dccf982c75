#pragma once

#include <string>

#include <rocksdb/env.h>

#include "base/error.h"
#include "storage/rocksdb/wal_check.h"

namespace sluice::storage {

// Reads the manifest before RocksDB does and tells whether it ends too early: RocksDB takes a
// manifest that was cut for an older one, deletes the tables that it does not name, and comes up
// without what they hold and without a word.
//
// The manifest's last sequence number covers all that is in tables; so what the logs hold begins
// behind it at the latest, and where they hold nothing, the oldest of them was made before the
// manifest's last change. Otherwise kCorrupt. RocksDB itself makes sure of the rest: it misses a
// log that the manifest knows and that is not there (track_and_verify_wals_in_manifest). What is
// damaged otherwise is left for RocksDB to refuse. The directory must not be in use.
Expected<> check_manifest(rocksdb::Env* env, const std::string& directory, const WalSummary& wal);

}  // namespace sluice::storage
