#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <rocksdb/env.h>

#include "base/error.h"
#include "storage/rocksdb/wal_check.h"

namespace sluice::storage {

struct ManifestSummary {
  std::string name;
  uint64_t last_sequence = 0;  // of the changes that tables hold
  uint64_t next_file = 0;      // the number of the next file, of whatever kind
  uint64_t first_log = 0;      // logs with smaller numbers are done with
};

// Reads the manifest that CURRENT names, up to its first damage, before RocksDB does. Nothing where
// there is none. The layout is RocksDB's (log_format.h). The directory must not be in use.
std::optional<ManifestSummary> read_manifest(rocksdb::Env* env, const std::string& directory);

// Tells whether the manifest ends too early: RocksDB takes a manifest that was cut for an older
// one, deletes the tables that it does not name, and comes up without what they hold and without a
// word.
//
// The manifest's last sequence number covers all that is in tables; so what the logs hold begins
// behind it at the latest, and where they hold nothing, the oldest of them was made before the
// manifest's last change. Otherwise kCorrupt. RocksDB itself makes sure of the rest: it misses a
// log that the manifest knows and that is not there (track_and_verify_wals_in_manifest). What is
// damaged otherwise is left for RocksDB to refuse.
Expected<> check_manifest(rocksdb::Env* env, const std::string& directory,
                          const ManifestSummary& manifest, const WalSummary& wal);

}  // namespace sluice::storage
