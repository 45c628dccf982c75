#include "tests/storage/faulty_file_system.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <rocksdb/system_clock.h>

namespace sluice::storage {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kPageBytes = 4096;

std::string parent_of(const std::string& name) {
  return fs::path(name).lexically_normal().parent_path().string();
}

// After a failed flush RocksDB sleeps for a second, which a test need not.
class ImpatientClock : public rocksdb::SystemClockWrapper {
 public:
  ImpatientClock() : SystemClockWrapper(rocksdb::SystemClock::Default()) {}
  const char* Name() const override { return "ImpatientClock"; }
  void SleepForMicroseconds(int us) override {
    SystemClockWrapper::SleepForMicroseconds(std::min(us, 1000));
  }
};

class FaultyEnv : public rocksdb::EnvWrapper {
 public:
  explicit FaultyEnv(std::unique_ptr<rocksdb::Env> env) : EnvWrapper(std::move(env)) {
    system_clock_ = std::make_shared<ImpatientClock>();
  }
};

rocksdb::IOStatus power_off() { return rocksdb::IOStatus::IOError("the power is off"); }

}  // namespace

class FaultyFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyFile(std::unique_ptr<rocksdb::FSWritableFile> file, FaultyFileSystem& system,
             std::string name, std::shared_ptr<FaultyFileSystem::File> state)
      : FSWritableFileOwnerWrapper(std::move(file)),
        system_(system),
        name_(std::move(name)),
        state_(std::move(state)) {}

  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    auto status = system_.change();
    if (!status.ok()) return status;
    status = system_.fault(FaultyFileSystem::Operation::kAppend, name_);
    if (!status.ok()) {  // a full disk takes a part of it
      rocksdb::Slice part(data.data(), data.size() / 2);
      if (FSWritableFileOwnerWrapper::Append(part, options, context).ok()) written(part.size());
      return status;
    }
    status = FSWritableFileOwnerWrapper::Append(data, options, context);
    if (status.ok()) written(data.size());
    return status;
  }
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           const rocksdb::DataVerificationInfo&,
                           rocksdb::IODebugContext* context) override {
    return Append(data, options, context);
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* context) override {
    return sync([&] { return FSWritableFileOwnerWrapper::Sync(options, context); });
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* context) override {
    return sync([&] { return FSWritableFileOwnerWrapper::Fsync(options, context); });
  }

 private:
  void written(size_t bytes) {
    std::lock_guard lock(system_.mutex_);
    state_->written_bytes += bytes;
  }

  template <typename Sync>
  rocksdb::IOStatus sync(Sync&& sync) {
    auto status = system_.change();
    if (status.ok()) status = system_.fault(FaultyFileSystem::Operation::kSync, name_);
    if (!status.ok()) return status;
    status = sync();
    if (!status.ok()) return status;
    std::lock_guard lock(system_.mutex_);
    state_->synced_bytes = state_->written_bytes;
    ++system_.syncs_[fs::path(name_).extension().string()];
    return status;
  }

  FaultyFileSystem& system_;
  std::string name_;
  std::shared_ptr<FaultyFileSystem::File> state_;
};

class FaultyDirectory : public rocksdb::FSDirectoryWrapper {
 public:
  FaultyDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, FaultyFileSystem& system,
                  std::string name)
      : FSDirectoryWrapper(std::move(directory)), system_(system), name_(std::move(name)) {}

  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* context) override {
    return sync([&] { return FSDirectoryWrapper::Fsync(options, context); });
  }
  rocksdb::IOStatus FsyncWithDirOptions(const rocksdb::IOOptions& options,
                                        rocksdb::IODebugContext* context,
                                        const rocksdb::DirFsyncOptions& how) override {
    return sync([&] { return FSDirectoryWrapper::FsyncWithDirOptions(options, context, how); });
  }

 private:
  template <typename Sync>
  rocksdb::IOStatus sync(Sync&& sync) {
    auto status = system_.change();
    if (status.ok()) status = sync();
    if (!status.ok()) return status;
    std::lock_guard lock(system_.mutex_);
    system_.unsynced_names_.erase(name_);
    return status;
  }

  FaultyFileSystem& system_;
  std::string name_;
};

FaultyFileSystem::FaultyFileSystem()
    : FileSystemWrapper(rocksdb::FileSystem::Default()),
      env_(
          std::make_unique<FaultyEnv>(rocksdb::NewCompositeEnv(std::shared_ptr<rocksdb::FileSystem>(
              static_cast<rocksdb::FileSystem*>(this), [](rocksdb::FileSystem*) {})))) {
  std::string pattern = (fs::temp_directory_path() / "sluice-aside-XXXXXX").string();
  aside_ = ::mkdtemp(pattern.data());
}

FaultyFileSystem::~FaultyFileSystem() {
  std::error_code ignored;
  fs::remove_all(aside_, ignored);
}

void FaultyFileSystem::fail_from(Operation operation, std::string suffix, int count,
                                 rocksdb::IOStatus error) {
  std::lock_guard lock(mutex_);
  fault_ = Fault{operation, std::move(suffix), count, std::move(error)};
}

void FaultyFileSystem::repair() {
  std::lock_guard lock(mutex_);
  fault_.reset();
}

int64_t FaultyFileSystem::syncs(const std::string& suffix) const {
  std::lock_guard lock(mutex_);
  auto found = syncs_.find(suffix);
  return found == syncs_.end() ? 0 : found->second;
}

rocksdb::IOStatus FaultyFileSystem::change() {
  if (changes_left_ == INT64_MAX) return rocksdb::IOStatus::OK();
  return changes_left_.fetch_sub(1) > 1 ? rocksdb::IOStatus::OK() : power_off();
}

rocksdb::IOStatus FaultyFileSystem::fault(Operation operation, const std::string& name) {
  std::lock_guard lock(mutex_);
  if (!fault_ || fault_->operation != operation || !name.ends_with(fault_->suffix)) {
    return rocksdb::IOStatus::OK();
  }
  return --fault_->count < 0 ? fault_->error : rocksdb::IOStatus::OK();
}

void FaultyFileSystem::named(const std::string& name, std::function<void()> undo) {
  unsynced_names_[parent_of(name)].push_back(std::move(undo));
}

// Another name for the file, under which it survives the loss of this one. Empty without a file.
std::string FaultyFileSystem::keep_aside(const std::string& name) {
  std::string kept = aside_ + "/" + std::to_string(++aside_count_);
  std::error_code error;
  fs::create_hard_link(name, kept, error);
  return error ? std::string() : kept;
}

rocksdb::IOStatus FaultyFileSystem::NewWritableFile(
    const std::string& name, const rocksdb::FileOptions& options,
    std::unique_ptr<rocksdb::FSWritableFile>* result, rocksdb::IODebugContext* context) {
  auto status = change();
  if (!status.ok()) return status;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  status = FileSystemWrapper::NewWritableFile(name, options, &file, context);
  if (!status.ok()) return status;
  auto state = std::make_shared<File>();
  {
    std::lock_guard lock(mutex_);
    files_[name] = state;
    named(name, [name] { fs::remove(name); });
  }
  *result = std::make_unique<FaultyFile>(std::move(file), *this, name, state);
  return status;
}

rocksdb::IOStatus FaultyFileSystem::NewDirectory(const std::string& name,
                                                 const rocksdb::IOOptions& options,
                                                 std::unique_ptr<rocksdb::FSDirectory>* result,
                                                 rocksdb::IODebugContext* context) {
  std::unique_ptr<rocksdb::FSDirectory> directory;
  auto status = FileSystemWrapper::NewDirectory(name, options, &directory, context);
  if (!status.ok()) return status;
  *result = std::make_unique<FaultyDirectory>(std::move(directory), *this,
                                              fs::path(name).lexically_normal().string());
  return status;
}

rocksdb::IOStatus FaultyFileSystem::DeleteFile(const std::string& name,
                                               const rocksdb::IOOptions& options,
                                               rocksdb::IODebugContext* context) {
  auto status = change();
  if (!status.ok()) return status;
  std::lock_guard lock(mutex_);
  std::string kept = keep_aside(name);
  status = FileSystemWrapper::DeleteFile(name, options, context);
  if (!status.ok()) return status;
  files_.erase(name);
  if (!kept.empty()) named(name, [name, kept] { fs::create_hard_link(kept, name); });
  return status;
}

rocksdb::IOStatus FaultyFileSystem::RenameFile(const std::string& from, const std::string& to,
                                               const rocksdb::IOOptions& options,
                                               rocksdb::IODebugContext* context) {
  auto status = change();
  if (!status.ok()) return status;
  std::lock_guard lock(mutex_);
  std::string replaced = keep_aside(to);
  status = FileSystemWrapper::RenameFile(from, to, options, context);
  if (!status.ok()) return status;
  if (auto moved = files_.extract(from)) {
    moved.key() = to;
    files_.erase(to);
    files_.insert(std::move(moved));
  }
  named(to, [from, to, replaced] {
    fs::rename(to, from);
    if (!replaced.empty()) fs::create_hard_link(replaced, to);
  });
  return status;
}

// Of the bytes that were not synced some are missing at the end. A log has its size before its
// contents, so there some pages in between may be missing, too. Other files grow as their contents
// arrive: ext4 (ordered), XFS and Btrfs write the data before the size.
void FaultyFileSystem::tear(const std::string& name, const File& file, std::mt19937_64& random) {
  uint64_t left = file.synced_bytes + random() % (file.written_bytes - file.synced_bytes + 1);
  uint64_t size = fs::file_size(name);
  fs::resize_file(name, left);
  if (!name.ends_with(".log")) return;
  if (random() % 2 == 0) fs::resize_file(name, size);  // with zeros
  if (random() % 2 == 0) return;
  std::fstream stream(name, std::ios::in | std::ios::out | std::ios::binary);
  for (uint64_t at = file.synced_bytes; at < left;) {
    uint64_t end = std::min(left, (at / kPageBytes + 1) * kPageBytes);
    if (random() % 2 == 0) {
      stream.seekp(static_cast<std::streamoff>(at));
      stream << std::string(end - at, '\0');
    }
    at = end;
  }
}

void FaultyFileSystem::lose_unsynced(std::mt19937_64& random) {
  changes_left_ = 0;
  std::lock_guard lock(mutex_);
  for (const auto& [name, file] : files_) {
    if (file->written_bytes > file->synced_bytes && fs::exists(name)) tear(name, *file, random);
  }
  for (auto& [directory, undo] : unsynced_names_) {
    for (uint64_t lost = random() % (undo.size() + 1); lost > 0; --lost) {
      undo.back()();
      undo.pop_back();
    }
  }
  files_.clear();
  unsynced_names_.clear();
}

}  // namespace sluice::storage
