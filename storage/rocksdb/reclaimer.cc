#include "storage/rocksdb/reclaimer.h"

#include <pthread.h>
#include <rocksdb/convenience.h>
#include <spdlog/spdlog.h>

#include "storage/rocksdb/keys.h"

namespace sluice::storage {

Reclaimer::Reclaimer(Engine& engine, const Watermarks& watermarks)
    : engine_(engine), watermarks_(watermarks), thread_([this] { run(); }) {
  pthread_setname_np(thread_.native_handle(), "reclaimer");
}

Reclaimer::~Reclaimer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  // A compaction of ours may be under way.
  engine_.db->DisableManualCompaction();
  thread_.join();
  engine_.db->EnableManualCompaction();
}

void Reclaimer::request() {
  {
    std::lock_guard lock(mutex_);
    requested_ = true;
  }
  wake_.notify_one();
}

void Reclaimer::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return requested_ || stopping_; });
      if (stopping_) return;
      requested_ = false;
    }
    reclaim();
  }
}

bool Reclaimer::stopping() {
  std::lock_guard lock(mutex_);
  return stopping_;
}

void Reclaimer::reclaim() {
  auto report = [](const rocksdb::Status& status) {
    if (status.ok() || status.IsIncomplete()) return;
    spdlog::warn("store: disk space is given back later: {}", status.ToString());
  };
  report(engine_.db->Flush(
      {}, {engine_.meta, engine_.messages, engine_.attempts, engine_.groups, engine_.queues,
           engine_.catalog, engine_.blobs, engine_.schedule, engine_.dedup}));
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  for (const auto& [queue, watermark] : watermarks_.all()) {
    if (stopping()) return;
    Sequence& reclaimed = reclaimed_[queue];
    if (reclaimed == watermark) continue;
    reclaimed = watermark;
    MessageKey first(queue, 0);
    MessageKey last(queue, watermark);
    rocksdb::Slice lower = slice(first.view());
    rocksdb::Slice upper = slice(last.view());
    for (auto* column : {engine_.messages, engine_.attempts}) {
      report(rocksdb::DeleteFilesInRange(engine_.db.get(), column, &lower, &upper,
                                         /*include_end=*/false));
      report(engine_.db->CompactRange(options, column, &lower, &upper));
    }
  }
}

}  // namespace sluice::storage
