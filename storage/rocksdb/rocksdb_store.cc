#include "storage/rocksdb/rocksdb_store.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <unordered_map>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/check.h"
#include "storage/rocksdb/body_collector.h"
#include "storage/rocksdb/body_table.h"
#include "storage/rocksdb/committer.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/position.h"
#include "storage/rocksdb/reclaimer.h"
#include "storage/rocksdb/time_table.h"

namespace sluice::storage {
namespace {

std::span<const uint8_t> bytes_of(const rocksdb::Slice& value) {
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

// A walk over [from, end) of a queue; the bounds live as long as it does. Knows no key outside of
// the queue and none behind `from`, where the tombstones are.
class Range {
 public:
  Range(const Engine& engine, rocksdb::ColumnFamilyHandle* column, QueueId queue, Sequence from)
      : Range(engine, column, MessageKey(queue, from), end_of_queue(queue)) {}
  Range(const Engine& engine, rocksdb::ColumnFamilyHandle* column, QueueId queue,
        SequenceRange range)
      : Range(engine, column, MessageKey(queue, range.first), MessageKey(queue, range.end)) {}
  // Of one group, in the family of groups.
  Range(const Engine& engine, QueueId queue, uint64_t group, SequenceRange range)
      : Range(engine, engine.groups, GroupKey(queue, group, range.first),
              GroupKey(queue, group, range.end)) {}
  template <typename Key>
  Range(const Engine& engine, rocksdb::ColumnFamilyHandle* column, Key begin, Key end)
      : begin_(begin.view()), end_(end.view()) {
    lower_ = slice(begin_);
    upper_ = slice(end_);
    rocksdb::ReadOptions options = iterator_options();
    options.iterate_lower_bound = &lower_;
    options.iterate_upper_bound = &upper_;
    options.fill_cache = false;  // a queue is read once
    iterator_.reset(engine.db->NewIterator(options, column));
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  rocksdb::Iterator* operator->() const { return iterator_.get(); }
  Sequence sequence() const { return MessageKey::sequence(iterator_->key().data()); }

 private:
  std::string begin_;
  std::string end_;
  rocksdb::Slice lower_;
  rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
};

class RocksdbStore : public Store {
 public:
  ~RocksdbStore() override {
    committer_.reset();
    collector_.stop();
  }

  // Everything between opening the database and the first commit.
  Expected<> open(const RocksdbOptions& options);

  void commit(std::unique_ptr<Batch> batch, Committed done) override {
    committer_->commit(std::move(batch), std::move(done));
  }
  Expected<std::vector<CatalogEntry>> catalog(CatalogKind kind) override;
  Expected<std::string> blob(std::string_view key) override;
  Expected<QueuePosition> position(QueueId queue) override;
  Expected<std::vector<QueueId>> queues() override;
  Expected<std::vector<StoredMessage>> read(QueueId queue, SequenceRange range, size_t count_max,
                                            size_t bytes_max) override;
  Expected<std::vector<Sequence>> group(QueueId queue, uint64_t group, SequenceRange range,
                                        size_t count_max) override;
  Expected<SchedulePosition> schedule(QueueId queue) override { return times_.schedule(queue); }
  Expected<bool> expiring(QueueId queue) override { return times_.expiring(queue); }
  Expected<DedupPosition> dedup(QueueId queue) override { return times_.dedup(queue); }
  Expected<std::vector<ScheduledMessage>> read_schedule(QueueId queue, ScheduleKey from,
                                                        size_t count_max,
                                                        size_t bytes_max) override {
    return times_.read_schedule(queue, from, count_max, bytes_max);
  }
  Expected<std::optional<DedupEntry>> find_id(QueueId queue, const DedupHash& id) override {
    return times_.find_id(queue, id);
  }
  void reclaim() override { reclaimer_->request(); }
  BodyPtr new_body(uint64_t bytes) override { return held_->hold(next_body_++, bytes); }
  Expected<std::string> read_chunk(BodyId body, uint32_t index) override;
  Expected<> close(const std::vector<Delivered>& delivered) override;

 private:
  Expected<> check_format(const std::string& directory);
  Expected<> load_watermarks();
  Expected<> load_bodies();
  Expected<> take_clean_mark();
  template <typename Fill>
  Expected<> write_at_open(Fill&& fill);
  bool holds_nothing() const;
  bool left_on_disk(QueueId queue) const;

  Watermarks watermarks_;
  BodyCollector collector_{engine_};  // outlives the engine, whose threads call it
  Engine engine_;
  const std::shared_ptr<HeldBodies> held_ = std::make_shared<HeldBodies>();
  BodyTable bodies_{engine_, watermarks_, held_};
  TimeTable times_{engine_, watermarks_, bodies_};
  std::atomic<BodyId> next_body_ = 1;
  // What the last clean stop wrote down; empty after a crash.
  std::unordered_map<QueueId, Sequence> delivered_;
  // Dropped queues of which nothing is left, their entries included once opening is through.
  std::vector<QueueId> forgotten_;
  // Last: they stop before what they use goes.
  std::unique_ptr<Reclaimer> reclaimer_;
  std::unique_ptr<Committer> committer_;
};

Expected<> RocksdbStore::open(const RocksdbOptions& options) {
  engine_.bodies_compacted = [this] { collector_.compacted(); };
  if (auto opened = open_engine(options.directory, options.env, watermarks_,
                                options.message_buffer_bytes, engine_);
      !opened) {
    return opened;
  }
  if (auto known = check_format(options.directory); !known) return known;
  if (auto loaded = load_watermarks(); !loaded) return loaded;
  if (auto loaded = load_bodies(); !loaded) return loaded;
  if (auto loaded = times_.load(); !loaded) return loaded;
  if (auto taken = take_clean_mark(); !taken) return taken;
  collector_.start();
  reclaimer_ = std::make_unique<Reclaimer>(engine_, watermarks_);
  committer_ = std::make_unique<Committer>(
      engine_, watermarks_, bodies_, times_,
      CommitterOptions{.sync = options.sync, .sync_interval = options.sync_interval});
  return {};
}

bool RocksdbStore::holds_nothing() const {
  for (auto* column : {engine_.meta, engine_.messages, engine_.attempts, engine_.groups,
                       engine_.queues, engine_.catalog, engine_.blobs, engine_.bodies,
                       engine_.body_index, engine_.schedule, engine_.dedup}) {
    std::unique_ptr<rocksdb::Iterator> any(engine_.db->NewIterator(iterator_options(), column));
    any->SeekToFirst();
    if (any->Valid() || !any->status().ok()) return false;
  }
  return true;
}

Expected<> RocksdbStore::check_format(const std::string& directory) {
  std::string value;
  auto status = engine_.db->Get({}, engine_.meta, slice(kFormatKey), &value);
  if (status.IsNotFound() && holds_nothing()) {
    char version[4];
    put_be32(version, kFormatVersion);
    return write_at_open([&](rocksdb::WriteBatch& write) {
      return write.Put(engine_.meta, slice(kFormatKey), rocksdb::Slice(version, sizeof version));
    });
  }
  if (!status.ok() && !status.IsNotFound()) {
    return std::unexpected(to_error(status, "reading the store's format"));
  }
  if (status.IsNotFound() || value.size() != 4) {
    return fail(Code::kInvalid,
                fmt::format("the data directory {} holds a database that Sluice did "
                            "not write; choose another one",
                            directory));
  }
  if (uint32_t version = get_be32(value.data()); version != kFormatVersion) {
    return fail(
        Code::kInvalid,
        fmt::format("the data directory {} has format {}, this version reads format {}: use "
                    "the version of Sluice that wrote it",
                    directory, version, kFormatVersion));
  }
  return {};
}

// Whether anything of the queue is there physically, consumed or not.
bool RocksdbStore::left_on_disk(QueueId queue) const {
  for (auto* column : {engine_.messages, engine_.attempts, engine_.groups}) {
    Range range(engine_, column, queue, 0);
    range->SeekToFirst();
    if (range->Valid() || !range->status().ok()) return true;
  }
  return bodies_.has_refs(queue) || times_.holds(queue);
}

Expected<> RocksdbStore::load_bodies() {
  if (auto loaded = bodies_.load(); !loaded) return loaded;
  auto next = bodies_.next_id();
  if (!next) return std::unexpected(next.error());
  next_body_ = *next;
  return {};
}

Expected<> RocksdbStore::load_watermarks() {
  std::unique_ptr<rocksdb::Iterator> at(
      engine_.db->NewIterator(iterator_options(), engine_.queues));
  for (at->SeekToFirst(); at->Valid(); at->Next()) {
    auto position = decode_position(at->value().ToStringView());
    if (at->key().size() != kQueueKeyBytes || !position) {
      return fail(Code::kCorrupt, "a stored queue position has the wrong size");
    }
    QueueId queue = get_be64(at->key().data());
    Sequence watermark = position->watermark;
    if (watermark == kDropped && !left_on_disk(queue)) {
      forgotten_.push_back(queue);
    } else {
      watermarks_.advance(queue, watermark);
    }
  }
  if (!at->status().ok()) {
    return std::unexpected(to_error(at->status(), "reading the queue positions"));
  }
  watermarks_.all_synced();  // recovery has written tables of what the log held
  return {};
}

// Reads the clean mark and removes it before anything else is written: it speaks of one stop only.
Expected<> RocksdbStore::take_clean_mark() {
  std::string mark;
  auto status = engine_.db->Get({}, engine_.meta, slice(kCleanKey), &mark);
  if (!status.ok() && !status.IsNotFound()) {
    return std::unexpected(to_error(status, "reading the mark of a clean stop"));
  }
  if (mark.size() % 16 != 0) {
    return fail(Code::kCorrupt, "the mark of a clean stop has the wrong size");
  }
  for (size_t at = 0; at < mark.size(); at += 16) {
    delivered_[get_be64(mark.data() + at)] = get_be64(mark.data() + at + 8);
  }
  // Also where there is none: the log must say that it was opened.
  return write_at_open([&](rocksdb::WriteBatch& write) {
    auto done = write.Delete(engine_.meta, slice(kCleanKey));
    for (QueueId queue : forgotten_) {
      if (done.ok()) done = write.Delete(engine_.queues, slice(QueueKey(queue).view()));
    }
    return done;
  });
}

template <typename Fill>
Expected<> RocksdbStore::write_at_open(Fill&& fill) {
  rocksdb::WriteBatch write;
  auto status = write.PutLogData(slice(kOpenedMark));
  if (status.ok()) status = fill(write);
  rocksdb::WriteOptions synced;
  synced.sync = true;
  if (status.ok()) status = engine_.db->Write(synced, &write);
  if (!status.ok()) return std::unexpected(to_error(status, "writing at the start of the store"));
  return {};
}

Expected<std::vector<CatalogEntry>> RocksdbStore::catalog(CatalogKind kind) {
  std::string begin(1, static_cast<char>(kind));
  std::string end(1, static_cast<char>(static_cast<uint8_t>(kind) + 1));
  rocksdb::Slice upper(end);
  rocksdb::ReadOptions options = iterator_options();
  options.iterate_upper_bound = &upper;
  std::unique_ptr<rocksdb::Iterator> at(engine_.db->NewIterator(options, engine_.catalog));
  std::vector<CatalogEntry> entries;
  for (at->Seek(begin); at->Valid(); at->Next()) {
    rocksdb::Slice key = at->key();
    key.remove_prefix(1);
    entries.push_back({key.ToString(), at->value().ToString()});
  }
  if (!at->status().ok()) return std::unexpected(to_error(at->status(), "reading the catalog"));
  return entries;
}

Expected<std::string> RocksdbStore::blob(std::string_view key) {
  std::string bytes;
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  auto status = engine_.db->Get(options, engine_.blobs, slice(key), &bytes);
  if (status.IsNotFound()) return fail(Code::kNotFound, fmt::format("no blob {} is stored", key));
  if (!status.ok()) return std::unexpected(to_error(status, "reading a blob"));
  return bytes;
}

Expected<std::string> RocksdbStore::read_chunk(BodyId body, uint32_t index) {
  std::string bytes;
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  auto status =
      engine_.db->Get(options, engine_.bodies, slice(ChunkKey(body, index).view()), &bytes);
  if (!status.ok()) {
    return std::unexpected(
        to_error(status, fmt::format("reading chunk {} of body {}", index, body)));
  }
  return bytes;
}

Expected<QueuePosition> RocksdbStore::position(QueueId queue) {
  std::string value;
  auto status = engine_.db->Get({}, engine_.queues, slice(QueueKey(queue).view()), &value);
  if (!status.ok() && !status.IsNotFound()) {
    return std::unexpected(to_error(status, "reading a queue's position"));
  }
  Batch::Advance stored{queue, 1};
  if (status.ok()) stored = *decode_position(value);  // load_watermarks() has checked it
  if (stored.watermark == kDropped) return QueuePosition{};
  QueuePosition position{.watermark = stored.watermark,
                         .next = std::max(stored.watermark, stored.below),
                         .count = stored.count,
                         .bytes = stored.bytes,
                         .purged = std::move(stored.purged)};
  Range rest(engine_, engine_.messages, queue, position.next);
  for (rest->SeekToFirst(); rest->Valid(); rest->Next()) {
    auto body_bytes = Record::body_bytes_of(bytes_of(rest->value()));
    if (!body_bytes) {
      return fail(Code::kCorrupt, fmt::format("message {} of queue {}: {}", rest.sequence(), queue,
                                              body_bytes.error().message));
    }
    ++position.count;
    position.bytes += *body_bytes;
    position.next = rest.sequence() + 1;
  }
  if (!rest->status().ok()) {
    return std::unexpected(to_error(rest->status(), "reading a queue's end"));
  }
  auto found = delivered_.find(queue);
  position.delivered = found == delivered_.end()
                           ? position.next
                           : std::clamp(found->second, position.watermark, position.next);
  return position;
}

Expected<std::vector<QueueId>> RocksdbStore::queues() {
  std::vector<QueueId> found;
  std::unique_ptr<rocksdb::Iterator> position(
      engine_.db->NewIterator(iterator_options(), engine_.queues));
  for (position->SeekToFirst(); position->Valid(); position->Next()) {
    if (decode_position(position->value().ToStringView())->watermark == kDropped) continue;
    found.push_back(get_be64(position->key().data()));
  }
  if (!position->status().ok()) {
    return std::unexpected(to_error(position->status(), "reading the queue positions"));
  }
  auto timed = times_.queues();
  if (!timed) return timed;
  found.insert(found.end(), timed->begin(), timed->end());
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

Expected<std::vector<StoredMessage>> RocksdbStore::read(QueueId queue, SequenceRange range,
                                                        size_t count_max, size_t bytes_max) {
  range.first = std::max(range.first, watermarks_.get(queue));
  if (range.first >= range.end) return std::vector<StoredMessage>();
  Range messages(engine_, engine_.messages, queue, range);
  Range attempts(engine_, engine_.attempts, queue, range);
  std::vector<StoredMessage> found;
  size_t bytes = 0;
  attempts->SeekToFirst();
  for (messages->SeekToFirst(); messages->Valid(); messages->Next()) {
    if (found.size() == count_max || bytes > bytes_max) break;
    Sequence sequence = messages.sequence();
    auto record = Record::from_bytes(bytes_of(messages->value()), *held_);
    if (!record) {
      return fail(Code::kCorrupt, fmt::format("message {} of queue {}: {}", sequence, queue,
                                              record.error().message));
    }
    while (attempts->Valid() && attempts.sequence() < sequence) attempts->Next();
    bool tried = attempts->Valid() && attempts.sequence() == sequence;
    if (tried && attempts->value().size() != 4) {
      return fail(Code::kCorrupt, "a stored number of attempts has the wrong size");
    }
    bytes += (*record)->bytes().size();
    found.push_back({sequence, tried ? get_be32(attempts->value().data()) : 0, *std::move(record)});
  }
  for (const auto& status : {messages->status(), attempts->status()}) {
    if (!status.ok()) return std::unexpected(to_error(status, "reading a queue"));
  }
  return found;
}

Expected<std::vector<Sequence>> RocksdbStore::group(QueueId queue, uint64_t group,
                                                    SequenceRange range, size_t count_max) {
  range.first = std::max(range.first, watermarks_.get(queue));
  if (range.first >= range.end) return std::vector<Sequence>();
  Range rows(engine_, queue, group, range);
  std::vector<Sequence> found;
  for (rows->SeekToFirst(); rows->Valid() && found.size() < count_max; rows->Next()) {
    found.push_back(GroupKey::sequence(rows->key().data()));
  }
  if (!rows->status().ok()) {
    return std::unexpected(to_error(rows->status(), "reading a group's messages"));
  }
  return found;
}

Expected<> RocksdbStore::close(const std::vector<Delivered>& delivered) {
  if (auto stopped = committer_->stop(); !stopped) return stopped;
  std::string mark(delivered.size() * 16, '\0');
  for (size_t i = 0; i < delivered.size(); ++i) {
    put_be64(mark.data() + i * 16, delivered[i].queue);
    put_be64(mark.data() + i * 16 + 8, delivered[i].below);
  }
  rocksdb::WriteOptions synced;
  synced.sync = true;
  auto status = engine_.db->Put(synced, engine_.meta, slice(kCleanKey), mark);
  if (!status.ok()) return std::unexpected(to_error(status, "marking the stop as clean"));
  return {};
}

// A new name is there after a power cut once the directory that holds it is synced.
bool sync_directory(const std::filesystem::path& directory) {
  int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  bool synced = ::fsync(fd) == 0;
  ::close(fd);
  return synced;
}

Expected<> make_directory(const std::string& directory) {
  std::error_code error;
  auto path = std::filesystem::absolute(directory, error);
  std::vector<std::filesystem::path> missing;
  while (!error && path.has_relative_path() && !std::filesystem::exists(path, error)) {
    missing.push_back(path);
    path = path.parent_path();
  }
  for (; !error && !missing.empty(); missing.pop_back()) {
    std::filesystem::create_directory(missing.back(), error);
    if (!error && !sync_directory(missing.back().parent_path())) {
      error.assign(errno, std::system_category());
    }
  }
  if (!error) return {};
  return fail(Code::kIo, fmt::format("the data directory {} cannot be created: {}", directory,
                                     error.message()));
}

}  // namespace

Expected<std::unique_ptr<Store>> open_rocksdb(const RocksdbOptions& options) {
  CHECK(!options.directory.empty());
  if (auto made = make_directory(options.directory); !made) return std::unexpected(made.error());
  auto store = std::make_unique<RocksdbStore>();
  if (auto opened = store->open(options); !opened) return std::unexpected(opened.error());
  return store;
}

}  // namespace sluice::storage
