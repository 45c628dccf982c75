#include "storage/rocksdb/time_filter.h"

#include <string>

#include "storage/rocksdb/keys.h"

namespace sluice::storage {
namespace {

// One flush or compaction; used by one thread.
class TimeFilter : public rocksdb::CompactionFilter {
 public:
  TimeFilter(const Watermarks& watermarks, const Watermarks* dedup_watermarks)
      : watermarks_(watermarks), dedup_watermarks_(dedup_watermarks) {}

  const char* Name() const override { return "sluice.time"; }

  Decision FilterV2(int, const rocksdb::Slice& key, ValueType, const rocksdb::Slice& value,
                    std::string*, std::string* skip_until) const override {
    if (key.size() < kTimeKeyBytesMin) return Decision::kKeep;
    QueueId queue = queue_of_time_key(key.data());
    if (queue != queue_) {
      queue_ = queue;
      dropped_ = watermarks_.synced(queue) == kDropped;
      watermark_ = dedup_watermarks_ != nullptr ? dedup_watermarks_->synced(queue) : 0;
    }
    if (dropped_) {
      // All of its kind, without a tombstone: nobody reads what a dropped queue has.
      skip_until->assign(key.data(), 1);
      char next[8];
      put_be64(next, queue + 1);
      skip_until->append(next, sizeof next);
      return Decision::kRemoveAndSkipUntil;
    }
    bool is_id = dedup_watermarks_ != nullptr && key[0] == static_cast<char>(DedupKind::kId);
    if (!is_id || value.size() != 16 || get_be64(value.data()) >= watermark_) {
      return Decision::kKeep;
    }
    // This may leave a tombstone for a while. Ids are in no order, so skipping would be a seek for
    // each; and they are read by single keys, which a tombstone does not slow down.
    return Decision::kRemove;
  }

 private:
  const Watermarks& watermarks_;
  const Watermarks* const dedup_watermarks_;
  // The queue met last; keys come in order, so each queue is looked up once for each kind.
  mutable QueueId queue_ = 0;
  mutable bool dropped_ = false;
  mutable uint64_t watermark_ = 0;
};

class TimeFilterFactory : public rocksdb::CompactionFilterFactory {
 public:
  TimeFilterFactory(const Watermarks& watermarks, const Watermarks* dedup_watermarks)
      : watermarks_(watermarks), dedup_watermarks_(dedup_watermarks) {}

  const char* Name() const override { return "sluice.time.factory"; }

  bool ShouldFilterTableFileCreation(rocksdb::TableFileCreationReason reason) const override {
    return reason == rocksdb::TableFileCreationReason::kFlush ||
           reason == rocksdb::TableFileCreationReason::kCompaction;
  }

  std::unique_ptr<rocksdb::CompactionFilter> CreateCompactionFilter(
      const rocksdb::CompactionFilter::Context&) override {
    return std::make_unique<TimeFilter>(watermarks_, dedup_watermarks_);
  }

 private:
  const Watermarks& watermarks_;
  const Watermarks* const dedup_watermarks_;
};

}  // namespace

std::shared_ptr<rocksdb::CompactionFilterFactory> make_time_filter_factory(
    const Watermarks& watermarks, const Watermarks* dedup_watermarks) {
  return std::make_shared<TimeFilterFactory>(watermarks, dedup_watermarks);
}

}  // namespace sluice::storage
