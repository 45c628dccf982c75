#include "storage/rocksdb/consumed_filter.h"

#include <string>

#include "storage/rocksdb/keys.h"

namespace sluice::storage {
namespace {

// One flush or compaction; used by one thread.
class ConsumedFilter : public rocksdb::CompactionFilter {
 public:
  explicit ConsumedFilter(const Watermarks& watermarks) : watermarks_(watermarks) {}

  const char* Name() const override { return "sluice.consumed"; }

  Decision FilterV2(int, const rocksdb::Slice& key, ValueType, const rocksdb::Slice&, std::string*,
                    std::string* skip_until) const override {
    return decide(key, skip_until);
  }

  // Decides without fetching the body from its blob file.
  Decision FilterBlobByKey(int, const rocksdb::Slice& key, std::string*,
                           std::string* skip_until) const override {
    return decide(key, skip_until);
  }

 private:
  // kRemoveAndSkipUntil and not kRemove: that one turns the key into a tombstone wherever an older
  // version might lie below. Here none can matter, since nobody reads behind the watermark.
  Decision decide(const rocksdb::Slice& key, std::string* skip_until) const {
    bool grouped = key.size() == kGroupKeyBytes;
    if (key.size() != kMessageKeyBytes && !grouped) return Decision::kKeep;
    QueueId queue = MessageKey::queue(key.data());
    if (queue != queue_) {
      queue_ = queue;
      watermark_ = watermarks_.synced(queue);
    }
    Sequence sequence = grouped ? GroupKey::sequence(key.data()) : MessageKey::sequence(key.data());
    if (sequence >= watermark_) return Decision::kKeep;
    if (grouped) {
      skip_until->assign(GroupKey(queue, GroupKey::group(key.data()), watermark_).view());
    } else {
      skip_until->assign(MessageKey(queue, watermark_).view());
    }
    return Decision::kRemoveAndSkipUntil;
  }

  const Watermarks& watermarks_;
  // The queue met last; keys come in order, so each queue is looked up once.
  mutable QueueId queue_ = 0;
  mutable Sequence watermark_ = 1;
};

class ConsumedFilterFactory : public rocksdb::CompactionFilterFactory {
 public:
  explicit ConsumedFilterFactory(const Watermarks& watermarks) : watermarks_(watermarks) {}

  const char* Name() const override { return "sluice.consumed.factory"; }

  bool ShouldFilterTableFileCreation(rocksdb::TableFileCreationReason reason) const override {
    return reason == rocksdb::TableFileCreationReason::kFlush ||
           reason == rocksdb::TableFileCreationReason::kCompaction;
  }

  std::unique_ptr<rocksdb::CompactionFilter> CreateCompactionFilter(
      const rocksdb::CompactionFilter::Context&) override {
    return std::make_unique<ConsumedFilter>(watermarks_);
  }

 private:
  const Watermarks& watermarks_;
};

}  // namespace

std::shared_ptr<rocksdb::CompactionFilterFactory> make_consumed_filter_factory(
    const Watermarks& watermarks) {
  return std::make_shared<ConsumedFilterFactory>(watermarks);
}

}  // namespace sluice::storage
