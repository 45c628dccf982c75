#include "storage/rocksdb/engine.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>

#include "storage/limits.h"
#include "storage/rocksdb/consumed_filter.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/manifest_check.h"
#include "storage/rocksdb/time_filter.h"
#include "storage/rocksdb/wal_check.h"

namespace sluice::storage {
namespace {

constexpr std::string_view kBodiesName = "bodies";

// Errors of the disk are final. RocksDB must not clear one behind our back and go on writing after
// a log that has a hole.
class NoResume : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

class BodiesCompacted : public rocksdb::EventListener {
 public:
  explicit BodiesCompacted(std::function<void()> tell) : tell_(std::move(tell)) {}

  void OnCompactionCompleted(rocksdb::DB*, const rocksdb::CompactionJobInfo& info) override {
    if (info.cf_name == kBodiesName) tell_();
  }

 private:
  const std::function<void()> tell_;
};

// Logs get their size with their blocks and not with each write: then a sync has no size to write,
// which makes it a third cheaper on ext4 (ARCHITECTURE.md, "Where the time goes").
class SizedLogs : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "SizedLogs"; }
  rocksdb::FileOptions OptimizeForLogWrite(const rocksdb::FileOptions& options,
                                           const rocksdb::DBOptions& db_options) const override {
    auto optimized = FileSystemWrapper::OptimizeForLogWrite(options, db_options);
    optimized.fallocate_with_keep_size = false;
    return optimized;
  }
};

class SizedLogsEnv : public rocksdb::EnvWrapper {
 public:
  explicit SizedLogsEnv(rocksdb::Env* env) : EnvWrapper(env) {
    file_system_ = std::make_shared<SizedLogs>(env->GetFileSystem());
    system_clock_ = env->GetSystemClock();
  }
};

rocksdb::DBOptions database_options(rocksdb::Env* env) {
  rocksdb::DBOptions options;
  options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;

  // Durability: see "Recovery" in FORMAT.md. Point-in-time, because what a power cut leaves of the
  // last write need not be a prefix of it; check_wal() has made sure that nothing is lost by it.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.track_and_verify_wals_in_manifest = true;
  options.max_bgerror_resume_count = 0;
  options.listeners.push_back(std::make_shared<NoResume>());
  options.paranoid_checks = true;

  // One writer: the committer.
  options.allow_concurrent_memtable_write = false;
  options.enable_write_thread_adaptive_yield = false;

  options.max_background_jobs = 3;  // a flush, a compaction, and a collection of bodies
  options.max_open_files = kOpenFilesMax;
  options.max_total_wal_size = kWalBytesMax;
  options.bytes_per_sync = 1u << 20;
  options.max_manifest_file_size = 16u << 20;
  options.skip_stats_update_on_db_open = true;

  // Nothing of ours reads these, and an idle broker should be idle.
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.max_log_file_size = kInfoLogBytesMax;
  options.keep_log_file_num = kInfoLogsMax;
  return options;
}

rocksdb::ColumnFamilyOptions small_column(const std::shared_ptr<rocksdb::Cache>& cache,
                                          rocksdb::BlockBasedTableOptions table = {}) {
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  table.format_version = 5;
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = kSmallBufferBytes;
  options.max_write_buffer_number = 2;
  options.compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;
  return options;
}

rocksdb::ColumnFamilyOptions message_column(const std::shared_ptr<rocksdb::Cache>& cache,
                                            size_t buffer_bytes) {
  rocksdb::BlockBasedTableOptions table;
  table.block_size = kMessageBlockBytes;
  rocksdb::ColumnFamilyOptions options = small_column(cache, table);
  options.write_buffer_size = buffer_bytes;
  options.max_write_buffer_number = kMessageBuffersMax;
  options.target_file_size_base = 32u << 20;
  options.max_bytes_for_level_base = 128u << 20;
  options.enable_blob_files = true;
  options.min_blob_size = kBlobBytesMin;
  options.blob_file_size = 64u << 20;
  options.enable_blob_garbage_collection = true;
  // What is consumed soon is not worth compressing; what stays is.
  auto supported = rocksdb::GetSupportedCompressions();
  if (std::ranges::find(supported, rocksdb::kLZ4Compression) != supported.end()) {
    options.bottommost_compression = rocksdb::kLZ4Compression;
  }
  return options;
}

rocksdb::ColumnFamilyOptions blob_column(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options = small_column(cache);
  options.enable_blob_files = true;
  options.min_blob_size = kBlobBytesMin;
  options.enable_blob_garbage_collection = true;
  return options;
}

// Its tables hold keys alone, so that compacting them costs little: after each flush, so that what
// was deleted meets its tombstone and a blob file goes when all in it is deleted.
rocksdb::ColumnFamilyOptions body_column(const std::shared_ptr<rocksdb::Cache>& cache,
                                         size_t buffer_bytes) {
  rocksdb::ColumnFamilyOptions options = small_column(cache);
  options.write_buffer_size = std::min(kBodyBufferBytes, buffer_bytes);
  options.max_write_buffer_number = kBodyBuffersMax;
  options.enable_blob_files = true;
  options.level0_file_num_compaction_trigger = 1;
  return options;
}

rocksdb::ColumnFamilyOptions schedule_column(const std::shared_ptr<rocksdb::Cache>& cache,
                                             const Watermarks& watermarks, size_t buffer_bytes) {
  rocksdb::ColumnFamilyOptions options = small_column(cache);
  options.write_buffer_size = std::min(kScheduleBufferBytes, buffer_bytes);
  options.compaction_filter_factory = make_time_filter_factory(watermarks, nullptr);
  return options;
}

// Read by single keys, most of which are not there.
rocksdb::ColumnFamilyOptions dedup_column(const std::shared_ptr<rocksdb::Cache>& cache,
                                          const Watermarks& watermarks,
                                          const Watermarks& dedup_watermarks) {
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerId));
  rocksdb::ColumnFamilyOptions options = small_column(cache, table);
  options.compaction_filter_factory = make_time_filter_factory(watermarks, &dedup_watermarks);
  return options;
}

struct Column {
  const char* name;
  rocksdb::ColumnFamilyHandle* Engine::*handle;
};

constexpr std::array<Column, 11> kColumns = {{{"default", &Engine::meta},
                                              {"messages", &Engine::messages},
                                              {"attempts", &Engine::attempts},
                                              {"groups", &Engine::groups},
                                              {"queues", &Engine::queues},
                                              {"catalog", &Engine::catalog},
                                              {"blobs", &Engine::blobs},
                                              {kBodiesName.data(), &Engine::bodies},
                                              {"body_index", &Engine::body_index},
                                              {"schedule", &Engine::schedule},
                                              {"dedup", &Engine::dedup}}};

std::vector<rocksdb::ColumnFamilyDescriptor> columns(const Watermarks& watermarks,
                                                     const Watermarks& dedup_watermarks,
                                                     size_t message_buffer_bytes) {
  auto cache = rocksdb::NewLRUCache(kBlockCacheBytes, /*num_shard_bits=*/0);
  auto filter = make_consumed_filter_factory(watermarks);
  std::vector<rocksdb::ColumnFamilyDescriptor> all;
  for (const Column& column : kColumns) {
    std::string_view name = column.name;
    rocksdb::ColumnFamilyOptions options =
        name == "messages"    ? message_column(cache, message_buffer_bytes)
        : name == "blobs"     ? blob_column(cache)
        : name == kBodiesName ? body_column(cache, message_buffer_bytes)
        : name == "schedule"  ? schedule_column(cache, watermarks, message_buffer_bytes)
        : name == "dedup"     ? dedup_column(cache, watermarks, dedup_watermarks)
                              : small_column(cache);
    if (name == "messages" || name == "attempts" || name == "groups")
      options.compaction_filter_factory = filter;
    all.emplace_back(column.name, options);
  }
  return all;
}

// A column family that we do not know is the work of a newer version.
Expected<> check_columns(const rocksdb::DBOptions& options, const std::string& directory) {
  std::vector<std::string> names;
  auto status = rocksdb::DB::ListColumnFamilies(options, directory, &names);
  if (!status.ok()) return {};  // new, or opening it tells better what is wrong
  for (const std::string& name : names) {
    if (std::ranges::none_of(kColumns, [&](const Column& c) { return name == c.name; })) {
      return fail(Code::kInvalid,
                  fmt::format("the data directory {} holds \"{}\", which this version does not "
                              "know: a newer version of Sluice wrote it, use that one",
                              directory, name));
    }
  }
  return {};
}

// Holds the directory while nobody has the database open.
class DirectoryLock {
 public:
  DirectoryLock(rocksdb::Env* env, const std::string& directory)
      : env_(env), status_(env->LockFile(directory + "/LOCK", &lock_)) {}
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;
  ~DirectoryLock() {
    if (lock_ != nullptr) env_->UnlockFile(lock_);
  }
  const rocksdb::Status& status() const { return status_; }

 private:
  rocksdb::Env* env_;
  rocksdb::FileLock* lock_ = nullptr;
  rocksdb::Status status_;
};

bool held_by_another(const rocksdb::Status& status) {
  std::string text = status.ToString();
  return status.IsIOError() && text.find("LOCK: ") != std::string::npos &&
         (text.find("temporarily unavailable") != std::string::npos ||
          text.find("lock hold by current process") != std::string::npos);
}

Error open_error(const rocksdb::Status& status, const std::string& directory) {
  if (held_by_another(status)) {
    return {Code::kUnavailable,
            fmt::format("the data directory {} is in use by another process", directory)};
  }
  return to_error(status, fmt::format("opening the store in {}", directory));
}

// What must be known and done before RocksDB may change anything: it opens with less than we ask
// for. Returns the sequence number that recovery must reach.
Expected<uint64_t> check_before_open(const rocksdb::DBOptions& options,
                                     const std::string& directory) {
  DirectoryLock lock(options.env, directory);
  if (!lock.status().ok()) return std::unexpected(open_error(lock.status(), directory));
  if (auto known = check_columns(options, directory); !known) {
    return std::unexpected(known.error());
  }
  auto manifest = read_manifest(options.env, directory);
  auto wal = check_wal(options.env, directory, manifest ? manifest->first_log : 0);
  if (!wal) return std::unexpected(wal.error());
  if (manifest) {
    auto whole = check_manifest(options.env, directory, *manifest, *wal);
    if (!whole) return std::unexpected(whole.error());
  }
  if (wal->cut) {
    auto cut = cut_wal(options.env, directory, *wal->cut);
    if (!cut) return std::unexpected(cut.error());
  }
  return wal->next_sequence;
}

}  // namespace

void Engine::close() {
  if (db == nullptr) return;
  for (const Column& column : kColumns) {
    if (this->*column.handle != nullptr) db->DestroyColumnFamilyHandle(this->*column.handle);
    this->*column.handle = nullptr;
  }
  db->Close();
  db.reset();
}

Expected<> open_engine(const std::string& directory, rocksdb::Env* env,
                       const Watermarks& watermarks, size_t message_buffer_bytes, Engine& engine) {
  engine.env = std::make_unique<SizedLogsEnv>(env != nullptr ? env : rocksdb::Env::Default());
  rocksdb::DBOptions options = database_options(engine.env.get());
  if (engine.bodies_compacted) {
    options.listeners.push_back(std::make_shared<BodiesCompacted>(engine.bodies_compacted));
  }
  auto next_sequence = check_before_open(options, directory);
  if (!next_sequence) return std::unexpected(next_sequence.error());
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  auto status = rocksdb::DB::Open(
      options, directory, columns(watermarks, engine.dedup_watermarks, message_buffer_bytes),
      &handles, &db);
  if (!status.ok()) return std::unexpected(open_error(status, directory));
  engine.db.reset(db);
  for (size_t i = 0; i < kColumns.size(); ++i) engine.*kColumns[i].handle = handles[i];
  if (db->GetLatestSequenceNumber() + 1 < *next_sequence) {
    return fail(
        Code::kCorrupt,
        fmt::format("recovering the store in {} stopped at change {}, its log goes on to {}: "
                    "restore the data directory from a copy",
                    directory, db->GetLatestSequenceNumber(), *next_sequence - 1));
  }
  return {};
}

Error to_error(const rocksdb::Status& status, std::string_view doing) {
  Code code = status.IsCorruption()        ? Code::kCorrupt
              : status.IsInvalidArgument() ? Code::kInvalid
              : status.IsNotFound()        ? Code::kNotFound
                                           : Code::kIo;
  return {code, fmt::format("{}: {}", doing, status.ToString())};
}

}  // namespace sluice::storage
