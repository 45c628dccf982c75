// Delayed messages and deduplication ids in the store.

#include <rocksdb/db.h>
#include <rocksdb/perf_context.h>

#include "storage/limits.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "tests/storage/bodies_support.h"
#include "tests/storage/crash_support.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

class StoredTimeTest : public ::testing::Test {
 protected:
  void SetUp() override { reopen(); }

  void reopen() {
    store_.reset();
    store_ = open_or_fail(directory_.path());
    ASSERT_NE(store_, nullptr);
  }

  std::vector<ScheduleKey> keys(QueueId queue, ScheduleKey from = {}) {
    auto found = store_->read_schedule(queue, from, SIZE_MAX, SIZE_MAX);
    EXPECT_TRUE(found);
    std::vector<ScheduleKey> keys;
    for (const auto& message : *found) keys.push_back(message.key);
    return keys;
  }

  // What lies in a family once it is compacted with what the store knew. Closes the store.
  size_t rows_left(rocksdb::ColumnFamilyHandle* Engine::*column, QueueId queue) {
    uint64_t forgotten = store_->dedup(queue)->watermark;
    uint64_t watermark = position_of(*store_, queue).watermark;
    bool dropped = store_->queues()->empty();
    store_.reset();
    Watermarks watermarks;
    Engine engine;
    EXPECT_TRUE(open_engine(directory_.path(), nullptr, watermarks, kMessageBufferBytes, engine));
    watermarks.advance(queue, dropped ? kDropped : watermark);
    watermarks.all_synced();
    engine.dedup_watermarks.advance(queue, forgotten);
    engine.dedup_watermarks.all_synced();
    EXPECT_TRUE(engine.db->CompactRange({}, engine.*column, nullptr, nullptr).ok());
    size_t count = 0;
    std::unique_ptr<rocksdb::Iterator> at(
        engine.db->NewIterator(iterator_options(), engine.*column));
    for (at->SeekToFirst(); at->Valid(); at->Next()) ++count;
    return count;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Store> store_;
};

Batch schedule(QueueId queue, const std::vector<ScheduleKey>& keys) {
  Batch batch;
  for (ScheduleKey key : keys) batch.schedules.push_back({queue, key, record_of("m")});
  batch.schedule_advances.push_back({queue, {keys.front().due_ms, 100, keys.size()}});
  return batch;
}

DedupHash hash(uint64_t number) {
  DedupHash hash{};
  put_be64(reinterpret_cast<char*>(hash.data()), number * 0x9e3779b97f4a7c15);
  put_be64(reinterpret_cast<char*>(hash.data()) + 8, number);
  return hash;
}

TEST_F(StoredTimeTest, DelayedMessagesAreReadByTheirTimeThenTheirNumber) {
  std::vector<ScheduleKey> wanted = {{5, 9}, {6, 2}, {6, 3}, {700, 1}};
  commit_or_fail(*store_, schedule(7, {wanted[2], wanted[0], wanted[3], wanted[1]}));
  commit_or_fail(*store_, schedule(8, {{1, 1}}));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(keys(7), wanted);
    EXPECT_EQ(keys(7, {6, 3}), (std::vector<ScheduleKey>{{6, 3}, {700, 1}}));
    auto page = store_->read_schedule(7, {}, 2, SIZE_MAX);
    ASSERT_TRUE(page);
    EXPECT_EQ(page->size(), 2u);
    page = store_->read_schedule(7, {}, SIZE_MAX, 0);
    ASSERT_TRUE(page);
    EXPECT_EQ(page->size(), 1u);
    EXPECT_EQ(store_->schedule(7), (SchedulePosition{6, 100, 4}));
    EXPECT_EQ(store_->queues(), (std::vector<QueueId>{7, 8}));
    reopen();
  }
}

TEST_F(StoredTimeTest, ADroppedQueueLeavesNothing) {
  commit_or_fail(*store_, schedule(7, {{1, 1}, {2, 2}}));
  Batch batch;
  batch.expiring_queues.push_back(7);
  batch.remembers.push_back({7, hash(1), {1, 1}});
  batch.dedup_advances.push_back({7, {1, 2, 1, {{1, 1}}}});
  commit_or_fail(*store_, std::move(batch));
  reopen();
  EXPECT_TRUE(*store_->expiring(7));
  EXPECT_EQ(store_->dedup(7), (DedupPosition{1, 2, 1, {{1, 1}}}));
  EXPECT_EQ(*store_->find_id(7, hash(1)), (DedupEntry{1, 1}));
  // Also what comes later in the same write.
  Batch dropped = schedule(7, {{3, 3}});
  dropped.dropped_queues.push_back(7);
  commit_or_fail(*store_, std::move(dropped));
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(keys(7).empty());
    EXPECT_EQ(store_->schedule(7), SchedulePosition{});
    EXPECT_FALSE(*store_->expiring(7));
    EXPECT_EQ(store_->dedup(7), DedupPosition{});
    EXPECT_EQ(*store_->find_id(7, hash(1)), std::optional<DedupEntry>());
    EXPECT_TRUE(store_->queues()->empty());
    reopen();
  }
  EXPECT_EQ(rows_left(&Engine::schedule, 7), 0u);
  reopen();
  EXPECT_EQ(rows_left(&Engine::dedup, 7), 0u);
}

// Reading where the schedule begins does not pass what was consumed, before and after a restart.
TEST_F(StoredTimeTest, TheFirstOfManyIsFoundWithoutPassingWhatWasConsumed) {
  const uint64_t count = number_from_environment("SLUICE_ROWS", 100'000);
  for (uint64_t at = 1; at <= count; at += 1000) {
    Batch batch;
    for (uint64_t i = at; i < at + 1000; ++i) {
      batch.schedules.push_back({7, {1000 + i, i}, record_of("m" + std::string(100, 'x'))});
    }
    batch.schedule_advances.push_back({7, {1001, at + 1000, at + 999}});
    commit_or_fail(*store_, std::move(batch));
  }
  for (uint64_t at = 1; at < count; at += 1000) {
    Batch batch;
    for (uint64_t i = at; i < at + 1000 && i < count; ++i) {
      batch.unschedules.push_back({7, {1000 + i, i}});
    }
    batch.schedule_advances.push_back(
        {7, {1000 + std::min(at + 1000, count), count + 1, count - std::min(at + 999, count - 1)}});
    commit_or_fail(*store_, std::move(batch));
  }
  for (int round = 0; round < 2; ++round) {
    auto position = store_->schedule(7);
    ASSERT_TRUE(position);
    rocksdb::SetPerfLevel(rocksdb::PerfLevel::kEnableCount);
    rocksdb::get_perf_context()->Reset();
    auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(keys(7, {position->first_due_ms, 0}),
              (std::vector<ScheduleKey>{{1000 + count, count}}));
    auto us = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - start);
    EXPECT_LE(rocksdb::get_perf_context()->internal_delete_skipped_count, 1000u);
    std::printf("%lu drained: the first is read in %ld us\n", count, static_cast<long>(us.count()));
    rocksdb::SetPerfLevel(rocksdb::PerfLevel::kDisable);
    start = std::chrono::steady_clock::now();
    reopen();
    us = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                               start);
    std::printf("opened in %ld us\n", static_cast<long>(us.count()));
  }
}

// Its reference is that of a delayed message until it moves, then that of the queue's.
TEST_F(StoredTimeTest, ADelayedMessageKeepsItsBody) {
  std::string bytes(kChunkBytes + 10, 'b');
  BodyId id;
  {
    Batch batch;
    BodyPtr body = put_body(*store_, batch, bytes, kChunkBytes);
    id = body->id();
    batch.schedules.push_back({7, {1, 1}, record_with(body)});
    batch.schedule_advances.push_back({7, {1, 2, 1}});
    commit_or_fail(*store_, std::move(batch));
  }
  commit_or_fail(*store_, advance(7, 1000));  // passes messages, not what is delayed
  reopen();
  auto delayed = store_->read_schedule(7, {}, 1, 0);
  ASSERT_TRUE(delayed && delayed->size() == 1);
  EXPECT_EQ(read_body(*store_, *delayed->front().record->external()), bytes);
  Batch moved;
  moved.appends.push_back({7, 1000, delayed->front().record});
  moved.unschedules.push_back({7, {1, 1}});
  moved.schedule_advances.push_back({7, {0, 2, 0}});
  commit_or_fail(*store_, std::move(moved));
  delayed->clear();
  reopen();
  EXPECT_EQ(read_body(*store_, *all_of(*store_, 7).front().record->external()), bytes);
  commit_or_fail(*store_, advance(7, 1001));
  EXPECT_TRUE(gone(*store_, id));
}

TEST_F(StoredTimeTest, ADroppedQueueTakesTheBodiesOfItsDelayedMessages) {
  BodyId id;
  {
    Batch batch;
    BodyPtr body = put_body(*store_, batch, std::string(1000, 'b'), kChunkBytes);
    id = body->id();
    batch.schedules.push_back({7, {1, 1}, record_with(body)});
    batch.schedule_advances.push_back({7, {1, 2, 1}});
    commit_or_fail(*store_, std::move(batch));
  }
  commit_or_fail(*store_, drop(7));
  EXPECT_TRUE(gone(*store_, id));
}

TEST_F(StoredTimeTest, ForgottenIdsLeaveTheDiskWithoutBeingNamed) {
  constexpr uint64_t kCount = 50'000;
  for (uint64_t at = 1; at <= kCount; at += 1000) {
    Batch batch;
    for (uint64_t i = at; i < at + 1000; ++i) batch.remembers.push_back({7, hash(i), {i, i}});
    batch.dedup_advances.push_back({7, {1, at + 1000, at + 999, {}}});
    commit_or_fail(*store_, std::move(batch));
  }
  EXPECT_EQ(*store_->find_id(7, hash(77)), (DedupEntry{77, 77}));
  Batch forget;
  forget.dedup_advances.push_back({7, {kCount - 9, kCount + 1, kCount, {}}});
  commit_or_fail(*store_, std::move(forget));
  EXPECT_EQ(rows_left(&Engine::dedup, 7), 11u);  // ten ids and the position
}

}  // namespace
}  // namespace sluice::storage
