#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

namespace sluice::storage {

// The machine's file system, with a power switch and failures on demand. It remembers what was
// synced, so that after the power is cut the disk can be brought into a state that a real one may
// be found in: unsynced bytes gone or in part, in logs pages of them in any order, unsynced names
// undone from the last one back. Thread-safe; must outlive the databases that use it.
class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  enum class Operation { kAppend, kSync };

  FaultyFileSystem();
  ~FaultyFileSystem() override;

  const char* Name() const override { return "FaultyFileSystem"; }
  rocksdb::Env* env() { return env_.get(); }

  // From the `count`-th operation of that kind on files whose names end in `suffix`, all of them
  // fail with `error`.
  void fail_from(Operation operation, std::string suffix, int count, rocksdb::IOStatus error);
  void repair();

  // After that many changes to the disk nothing reaches it any more.
  void cut_power_after(int64_t changes) { changes_left_ = changes; }
  bool power_is_off() const { return changes_left_ <= 0; }
  // Brings the disk into its state after the cut. The power stays off, so a database that is still
  // open does no harm, but it must not be closed.
  void lose_unsynced(std::mt19937_64& random);

  int64_t syncs(const std::string& suffix) const;

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* result,
                                 rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override;

 private:
  friend class FaultyFile;
  friend class FaultyDirectory;

  struct File {
    uint64_t written_bytes = 0;
    uint64_t synced_bytes = 0;
  };
  struct Fault {
    Operation operation;
    std::string suffix;
    int count;
    rocksdb::IOStatus error;
  };

  // Ok, or why the change cannot be made. Counts it.
  rocksdb::IOStatus change();
  rocksdb::IOStatus fault(Operation operation, const std::string& name);
  void named(const std::string& name, std::function<void()> undo);
  std::string keep_aside(const std::string& name);
  void tear(const std::string& name, const File& file, std::mt19937_64& random);

  std::unique_ptr<rocksdb::Env> env_;
  std::string aside_;  // where deleted files lie until their deletion is synced
  std::atomic<int64_t> changes_left_ = INT64_MAX;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<File>> files_;
  // How to undo what happened to a directory's names since it was synced, oldest first.
  std::map<std::string, std::vector<std::function<void()>>> unsynced_names_;
  std::map<std::string, int64_t> syncs_;
  std::optional<Fault> fault_;
  int aside_count_ = 0;
};

}  // namespace sluice::storage
