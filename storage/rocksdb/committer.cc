#include "storage/rocksdb/committer.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <unordered_set>

#include <fmt/format.h>
#include <pthread.h>
#include <rocksdb/convenience.h>
#include <spdlog/spdlog.h>

#include "base/check.h"
#include "storage/limits.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/position.h"

namespace sluice::storage {
namespace {

size_t size_of(const Batch& batch) {
  size_t bytes = 0;
  for (const auto& append : batch.appends) {
    if (append.record != nullptr) bytes += append.record->bytes().size();
  }
  for (const auto& chunk : batch.chunks) bytes += chunk.bytes.size();
  for (const auto& blob : batch.blobs) bytes += blob.bytes ? blob.bytes->size() : 0;
  for (const auto& schedule : batch.schedules) {
    if (schedule.record != nullptr) bytes += schedule.record->bytes().size();
  }
  return bytes;
}

std::string catalog_key(const Batch::Definition& definition) {
  return static_cast<char>(definition.kind) + definition.key;
}

}  // namespace

Committer::Committer(Engine& engine, Watermarks& watermarks, BodyTable& bodies, TimeTable& times,
                     const CommitterOptions& options)
    : engine_(engine),
      watermarks_(watermarks),
      bodies_(bodies),
      times_(times),
      options_(options),
      synced_below_(engine.db->GetLatestSequenceNumber() + 1),
      thread_([this] { run(); }) {
  pthread_setname_np(thread_.native_handle(), "committer");
  bodies_.held().when_released([this] {
    {
      std::lock_guard lock(mutex_);
      released_ = true;
    }
    wake_.notify_one();
  });
}

void Committer::commit(std::unique_ptr<Batch> batch, Store::Committed done) {
  CHECK(batch != nullptr);
  {
    std::lock_guard lock(mutex_);
    CHECK(!stopping_);
    if (!batch->ties.empty()) ++tied_count_;
    for (const auto& tie : batch->ties) {
      CHECK(tie->missing_ > 0);
      --tie->missing_;
    }
    waiting_.push_back({std::move(batch), std::move(done)});
  }
  wake_.notify_one();
}

Expected<> Committer::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  bodies_.held().when_released(nullptr);
  if (thread_.joinable()) thread_.join();
  if (failed_) return std::unexpected(*failed_);
  return {};
}

void Committer::run() {
  std::vector<Job> jobs;
  while (take(jobs)) {
    if (!failed_) write(jobs);
    for (Job& job : jobs) {
      job.done(std::move(job.batch),
               failed_ ? Expected<>(std::unexpected(*failed_)) : Expected<>());
    }
    if (sync_is_due()) sync();
    jobs.clear();
  }
  if (sync_at_) sync();
}

// Waits for work; there may be some without a job. False once no job is left and none may come.
bool Committer::take(std::vector<Job>& jobs) {
  std::unique_lock lock(mutex_);
  auto ready = [this] {
    return has_job() || stopping_ || released_ || (bodies_.has_work() && !failed_);
  };
  if (sync_at_ && !wake_.wait_until(lock, *sync_at_, ready)) {
    lock.unlock();
    sync();
    lock.lock();
  }
  if (written_ && !wake_.wait_for(lock, options_.idle, ready)) {
    lock.unlock();
    settle();
    lock.lock();
  }
  wake_.wait(lock, ready);
  if (waiting_.empty() && stopping_) return false;
  released_ = false;
  if (tied_count_ > 0) {
    // What is tied must not be parted, so all that can go goes.
    find_blocked();
    std::deque<Job> blocked;
    for (Job& job : waiting_) {
      if (!job.blocked && !job.batch->ties.empty()) --tied_count_;
      if (job.blocked) {
        blocked.push_back(std::move(job));
      } else {
        jobs.push_back(std::move(job));
      }
    }
    waiting_ = std::move(blocked);
    // Nobody is left who could hand over what they wait for.
    CHECK(!stopping_ || waiting_.empty());
    return true;
  }
  size_t bytes = 0;
  while (!waiting_.empty() && bytes < kMergeBytesMax) {
    bytes += size_of(*waiting_.front().batch);
    jobs.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return true;
}

bool Committer::has_job() {
  if (tied_count_ == 0) return !waiting_.empty();
  find_blocked();
  return std::ranges::any_of(waiting_, [](const Job& job) { return !job.blocked; });
}

// A batch has to wait while a party to one of its ties is missing or has to wait itself, and while
// one before it from the same source has to.
void Committer::find_blocked() {
  for (Job& job : waiting_) {
    job.blocked =
        std::ranges::any_of(job.batch->ties, [](const auto& tie) { return tie->missing_ > 0; });
  }
  std::unordered_set<uint64_t> sources;
  std::unordered_set<const Tie*> ties;
  for (bool found = true; found;) {
    found = false;
    for (Job& job : waiting_) {
      const Batch& batch = *job.batch;
      if (!job.blocked && !sources.contains(batch.source) &&
          std::ranges::none_of(batch.ties,
                               [&](const auto& tie) { return ties.contains(tie.get()); })) {
        continue;
      }
      job.blocked = true;
      if (batch.source != 0) found |= sources.insert(batch.source).second;
      for (const auto& tie : batch.ties) found |= ties.insert(tie.get()).second;
    }
  }
}

// Once nothing was written for a while: memory goes back, and a restart has no log to replay.
// RocksDB's background threads do it.
void Committer::settle() {
  written_ = false;
  write_ = rocksdb::WriteBatch();
  if (failed_) return;
  rocksdb::FlushOptions options;
  options.wait = false;
  options.allow_write_stall = true;  // rather than to wait until there can be none
  auto status =
      engine_.db->Flush(options, {engine_.meta, engine_.messages, engine_.attempts, engine_.groups,
                                  engine_.queues, engine_.catalog, engine_.blobs, engine_.bodies,
                                  engine_.body_index, engine_.schedule, engine_.dedup});
  // The next write fails with it.
  if (!status.ok()) spdlog::error("store: flushing failed: {}", status.ToString());
}

void Committer::write(std::vector<Job>& jobs) {
  rocksdb::Status status = build(jobs);
  if (status.ok() && write_.Count() > 0) {
    rocksdb::WriteOptions options;
    options.sync = options_.sync == SyncMode::kAlways;
    status = engine_.db->Write(options, &write_);
    written_ = true;
  }
  if (!status.ok()) {
    fail(status, "writing to the store failed; nothing more is confirmed");
    return;
  }
  for (const auto& [queue, advance] : advances_) watermarks_.advance(queue, advance.watermark);
  for (const Job& job : jobs) times_.written(*job.batch);
  if (options_.sync != SyncMode::kInterval) {
    all_synced();  // or nobody wants to know
  } else if (!sync_at_) {
    sync_at_ = std::chrono::steady_clock::now() + options_.sync_interval;
  }
}

// What was called back since the last time.
void Committer::sync() {
  sync_at_.reset();
  if (failed_) return;
  if (auto status = engine_.db->SyncWAL(); !status.ok()) {
    fail(status, "syncing the store's log failed; nothing more is confirmed");
    return;
  }
  synced_below_ = engine_.db->GetLatestSequenceNumber() + 1;
  all_synced();
}

void Committer::fail(const rocksdb::Status& status, std::string_view doing) {
  failed_ = to_error(status, doing);
  spdlog::critical("{}", failed_->message);
}

// The contents of all jobs, in their order, in write_.
rocksdb::Status Committer::build(const std::vector<Job>& jobs) {
  size_t bytes = 0;
  for (const Job& job : jobs) bytes += size_of(*job.batch);
  bytes += bytes / 16;  // keys and lengths
  write_.Clear();
  size_t capacity = write_.Data().capacity();
  if (capacity < bytes || capacity > kWriteBufferBytesMax) {
    write_ = rocksdb::WriteBatch();  // first gives back what it had
    write_ = rocksdb::WriteBatch(bytes);
  }
  plan(jobs);
  bodies_.begin(write_);
  rocksdb::Status status;
  if (options_.sync != SyncMode::kAlways) {
    std::array<char, kSyncedMarkBytes> mark;
    std::ranges::copy(kSyncedMark, mark.data());
    put_be64(mark.data() + kSyncedMark.size(), synced_below_);
    status = write_.PutLogData(rocksdb::Slice(mark.data(), mark.size()));
  }
  auto keep = [&status](rocksdb::Status next) {
    if (status.ok()) status = std::move(next);
  };
  for (const Job& job : jobs) {
    for (const auto& definition : job.batch->definitions) {
      std::string key = catalog_key(definition);
      keep(definition.value ? write_.Put(engine_.catalog, key, *definition.value)
                            : write_.Delete(engine_.catalog, key));
    }
    for (const auto& blob : job.batch->blobs) {
      keep(blob.bytes ? write_.Put(engine_.blobs, blob.key, *blob.bytes)
                      : write_.Delete(engine_.blobs, blob.key));
    }
    for (auto& chunk : job.batch->chunks) {
      keep(bodies_.put_chunk(chunk));
      std::string().swap(chunk.bytes);  // the write has its copy
    }
    for (const auto& append : job.batch->appends) keep(build_append(append));
    for (const auto& attempts : job.batch->attempts) keep(build_attempts(attempts));
    for (const auto& remove : job.batch->removes) keep(build_remove(remove));
    keep(times_.build(write_, *job.batch,
                      [this](QueueId queue) { return watermark_after(queue) == kDropped; }));
  }
  keep(build_advances());
  if (status.ok()) keep(bodies_.finish());
  return status;
}

// Finds out first what this write consumes, so that a message which a later one of the jobs
// consumed is not written at all.
void Committer::plan(const std::vector<Job>& jobs) {
  advances_.clear();
  cached_queue_ = 0;
  for (const Job& job : jobs) {
    for (const auto& advance : job.batch->advances) {
      auto [found, fresh] = advances_.try_emplace(advance.queue, advance);
      Sequence before = fresh ? watermarks_.get(advance.queue) : found->second.watermark;
      found->second = advance;
      found->second.watermark = std::max(before, advance.watermark);
    }
    for (QueueId queue : job.batch->dropped_queues) advances_[queue] = {queue, kDropped};
  }
}

rocksdb::Status Committer::build_append(const Batch::Append& append) {
  if (append.record == nullptr || append.sequence < watermark_after(append.queue)) return {};
  auto bytes = append.record->bytes();
  auto status = bodies_.append(append.queue, append.sequence, *append.record);
  if (status.ok() && append.attempts > 0) {
    status = build_attempts({append.queue, append.sequence, append.attempts});
  }
  if (uint64_t group = append.record->group(); status.ok() && group != 0) {
    status =
        write_.Put(engine_.groups, slice(GroupKey(append.queue, group, append.sequence).view()),
                   rocksdb::Slice());
  }
  if (!status.ok()) return status;
  return write_.Put(engine_.messages, slice(MessageKey(append.queue, append.sequence).view()),
                    rocksdb::Slice(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

rocksdb::Status Committer::build_attempts(const Batch::Attempts& attempts) {
  if (attempts.sequence < watermark_after(attempts.queue)) return {};
  Queue& queue = queue_of(attempts.queue);
  queue.attempts_end = std::max(queue.attempts_end, attempts.sequence + 1);
  std::array<char, 4> count;
  put_be32(count.data(), attempts.count);
  return write_.Put(engine_.attempts, slice(MessageKey(attempts.queue, attempts.sequence).view()),
                    rocksdb::Slice(count.data(), count.size()));
}

rocksdb::Status Committer::build_advances() {
  for (const auto& [queue, advance] : advances_) {
    auto status =
        write_.Put(engine_.queues, slice(QueueKey(queue).view()), encode_position(advance));
    if (status.ok()) status = bodies_.advance(queue, advance.watermark);
    if (!status.ok()) return status;
  }
  return {};
}

rocksdb::Status Committer::build_remove(const Batch::Remove& remove) {
  if (remove.sequence < watermark_after(remove.queue)) return {};
  MessageKey key(remove.queue, remove.sequence);
  if (remove.sequence < queue_of(remove.queue).attempts_end) {
    if (auto status = write_.Delete(engine_.attempts, slice(key.view())); !status.ok()) {
      return status;
    }
  }
  if (remove.group != 0) {
    auto status = write_.Delete(
        engine_.groups, slice(GroupKey(remove.queue, remove.group, remove.sequence).view()));
    if (!status.ok()) return status;
  }
  if (auto status = bodies_.remove(remove.queue, remove.sequence); !status.ok()) return status;
  return write_.Delete(engine_.messages, slice(key.view()));
}

// The queue's watermark once this write is done.
Sequence Committer::watermark_after(QueueId queue) {
  if (queue == cached_queue_) return cached_watermark_;
  cached_queue_ = queue;
  if (auto found = advances_.find(queue); found != advances_.end()) {
    cached_watermark_ = found->second.watermark;
  } else {
    cached_watermark_ = watermarks_.get(queue);
  }
  return cached_watermark_;
}

// The first time that a queue is met, looks for its last attempts: removing a message must remove
// its attempts too, and most queues have none.
Committer::Queue& Committer::queue_of(QueueId id) {
  auto [found, fresh] = queues_.try_emplace(id);
  if (!fresh) return found->second;
  MessageKey end = end_of_queue(id);
  MessageKey begin(id, watermarks_.get(id));
  rocksdb::Slice lower = slice(begin.view());
  rocksdb::Slice upper = slice(end.view());
  rocksdb::ReadOptions options = iterator_options();
  options.iterate_lower_bound = &lower;
  options.iterate_upper_bound = &upper;
  std::unique_ptr<rocksdb::Iterator> last(engine_.db->NewIterator(options, engine_.attempts));
  last->SeekToLast();
  if (last->Valid()) found->second.attempts_end = MessageKey::sequence(last->key().data()) + 1;
  // What cannot be read cannot be ruled out.
  if (!last->status().ok()) found->second.attempts_end = ~Sequence{0};
  return found->second;
}

// Compaction may now drop what was consumed.
void Committer::all_synced() {
  times_.all_synced();
  for (QueueId id : watermarks_.all_synced()) {
    Sequence watermark = watermarks_.synced(id);
    Queue& queue = queue_of(id);
    if (watermark - queue.reclaimed >= kReclaimMessages) {
      reclaim(id, watermark);
      queue.reclaimed = watermark;
    }
    if (watermark == kDropped) queues_.erase(id);
  }
}

// Gives back the files in which everything is consumed or of a dropped queue, without reading them.
// The rest goes with the next compaction. Failing is harmless: the files stay for that.
void Committer::reclaim(QueueId queue, Sequence watermark) {
  auto give_back = [this](rocksdb::ColumnFamilyHandle* column, std::string_view first,
                          std::string_view end) {
    rocksdb::Slice lower = slice(first);
    rocksdb::Slice upper = slice(end);
    auto status = rocksdb::DeleteFilesInRange(engine_.db.get(), column, &lower, &upper,
                                              /*include_end=*/false);
    if (!status.ok()) spdlog::warn("store: disk space is given back later: {}", status.ToString());
  };
  give_back(engine_.messages, MessageKey(queue, 0).view(), MessageKey(queue, watermark).view());
  if (watermark != kDropped) return;
  give_back(engine_.schedule, ScheduleRowKey(ScheduleKind::kMessage, queue).view(),
            ScheduleRowKey(ScheduleKind::kMessage, queue + 1).view());
  give_back(engine_.dedup, DedupRowKey(DedupKind::kId, queue).view(),
            DedupRowKey(DedupKind::kId, queue + 1).view());
}

}  // namespace sluice::storage
