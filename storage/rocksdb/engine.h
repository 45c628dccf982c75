#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <rocksdb/db.h>

#include "base/error.h"
#include "storage/rocksdb/watermarks.h"

namespace sluice::storage {

// The open database and its column families (storage/FORMAT.md). Closes both.
struct Engine {
  std::unique_ptr<rocksdb::Env> env;  // what the database writes through
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* meta = nullptr;
  rocksdb::ColumnFamilyHandle* messages = nullptr;
  rocksdb::ColumnFamilyHandle* attempts = nullptr;
  rocksdb::ColumnFamilyHandle* groups = nullptr;
  rocksdb::ColumnFamilyHandle* queues = nullptr;
  rocksdb::ColumnFamilyHandle* catalog = nullptr;
  rocksdb::ColumnFamilyHandle* blobs = nullptr;
  rocksdb::ColumnFamilyHandle* bodies = nullptr;
  rocksdb::ColumnFamilyHandle* body_index = nullptr;
  rocksdb::ColumnFamilyHandle* schedule = nullptr;
  rocksdb::ColumnFamilyHandle* dedup = nullptr;

  // Which deduplication ids are forgotten; the filter of `dedup` reads it. Empty until the owner
  // has loaded it.
  Watermarks dedup_watermarks;

  // Set before opening, if at all: called on RocksDB's threads when `bodies` were compacted.
  std::function<void()> bodies_compacted;

  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() { close(); }
  void close();
};

// Opens the database in `directory`. `watermarks` is what its compaction filters read; it is empty
// until the caller has loaded it, and must outlive the engine. The format is not checked yet.
Expected<> open_engine(const std::string& directory, rocksdb::Env* env,
                       const Watermarks& watermarks, size_t message_buffer_bytes, Engine& engine);

// For every iterator. We delete no ranges; and while it looks for such deletions, RocksDB 7.8 takes
// a table whose first block is damaged for the end of the data, with an OK status.
inline rocksdb::ReadOptions iterator_options() {
  rocksdb::ReadOptions options;
  options.ignore_range_deletions = true;
  return options;
}

// An Error that says what was being done, what RocksDB answered, and of which kind that is.
Error to_error(const rocksdb::Status& status, std::string_view doing);

inline rocksdb::Slice slice(std::string_view view) { return {view.data(), view.size()}; }

}  // namespace sluice::storage
