#pragma once

#include <memory>

#include <rocksdb/compaction_filter.h>

#include "storage/rocksdb/watermarks.h"

namespace sluice::storage {

// Makes the filters that drop the keys behind each queue's watermark while RocksDB flushes or
// compacts the messages and attempts. What is dropped leaves no tombstone. `watermarks` must
// outlive the database.
std::shared_ptr<rocksdb::CompactionFilterFactory> make_consumed_filter_factory(
    const Watermarks& watermarks);

}  // namespace sluice::storage
