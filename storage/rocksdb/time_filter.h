#pragma once

#include <memory>

#include <rocksdb/compaction_filter.h>

#include "storage/rocksdb/watermarks.h"

namespace sluice::storage {

// Makes the filters for the families of schedules and of deduplication ids: they drop all of the
// queues that are dropped in `watermarks`; for ids, also those behind `dedup_watermarks`, which is
// null for schedules. Both must outlive the database.
std::shared_ptr<rocksdb::CompactionFilterFactory> make_time_filter_factory(
    const Watermarks& watermarks, const Watermarks* dedup_watermarks);

}  // namespace sluice::storage
