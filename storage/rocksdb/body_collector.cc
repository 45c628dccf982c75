#include "storage/rocksdb/body_collector.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include "storage/limits.h"

namespace sluice::storage {
namespace {

uint64_t number(const Engine& engine, const char* property) {
  uint64_t value = 0;
  engine.db->GetIntProperty(engine.bodies, property, &value);
  return value;
}

uint64_t garbage_bytes(const Engine& engine) {
  return number(engine, "rocksdb.live-blob-file-garbage-size");
}

}  // namespace

void BodyCollector::start() {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "body-collector");
}

void BodyCollector::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void BodyCollector::compacted() {
  {
    std::lock_guard lock(mutex_);
    due_ = true;
  }
  wake_.notify_one();
}

void BodyCollector::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return due_ || stopping_; });
      if (stopping_) return;
      due_ = false;
    }
    if (worth_it()) collect();
  }
}

bool BodyCollector::worth_it() const {
  uint64_t garbage = garbage_bytes(engine_);
  return garbage > left_bytes_ + kBodyGarbageBytesMin &&
         garbage > number(engine_, "rocksdb.live-blob-file-size") / 2;
}

void BodyCollector::collect() {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  options.blob_garbage_collection_age_cutoff = 1.0;
  options.canceled = &stopping_;
  auto status = engine_.db->CompactRange(options, engine_.bodies, nullptr, nullptr);
  if (!status.ok() && !stopping_) {
    spdlog::warn("store: disk space is given back later: {}", status.ToString());
  }
  left_bytes_ = garbage_bytes(engine_);
}

}  // namespace sluice::storage
