#include "storage/rocksdb/rocksdb_store.h"

#include <mutex>

#include <rocksdb/db.h>
#include <rocksdb/env.h>

#include "storage/limits.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

using Sequences = std::vector<Sequence>;

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override { reopen(); }

  void reopen() {
    store_.reset();
    store_ = open_or_fail(directory_.path());
    ASSERT_NE(store_, nullptr);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, MessagesComeBackByteForByteAndInOrder) {
  Batch batch;
  std::vector<RecordPtr> records;
  for (Sequence at = 1; at <= 300; ++at) {
    records.push_back(
        record_of(std::string(at, static_cast<char>(at)), "key" + std::to_string(at)));
    batch.appends.push_back({7, at, records.back()});
  }
  commit_or_fail(*store_, std::move(batch));
  for (int round = 0; round < 2; ++round) {
    auto found = all_of(*store_, 7);
    ASSERT_EQ(found.size(), 300u);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].sequence, i + 1);
      EXPECT_EQ(found[i].attempts, 0u);
      EXPECT_TRUE(std::ranges::equal(found[i].record->bytes(), records[i]->bytes()));
    }
    reopen();
  }
}

TEST_F(StoreTest, QueuesDoNotSeeEachOther) {
  for (QueueId queue : {1, 2, 255, 256, 257}) {
    commit_or_fail(*store_, append(queue, 1, 3, std::to_string(queue) + ":"));
  }
  for (QueueId queue : {1, 2, 255, 256, 257}) {
    auto found = all_of(*store_, queue);
    ASSERT_EQ(found.size(), 3u);
    EXPECT_EQ(body_of(found[2]), std::to_string(queue) + ":3");
  }
  EXPECT_TRUE(all_of(*store_, 3).empty());
}

TEST_F(StoreTest, AReadStopsAtItsLimitsButNeverBeforeTheFirstMessage) {
  Batch batch;
  for (Sequence at = 1; at <= 10; ++at) {
    batch.appends.push_back({1, at, record_of(std::string(1000, 'x'))});
  }
  commit_or_fail(*store_, std::move(batch));
  EXPECT_EQ(store_->read(1, {1, ~Sequence{0}}, 4, SIZE_MAX)->size(), 4u);
  EXPECT_EQ(store_->read(1, {1, ~Sequence{0}}, 0, SIZE_MAX)->size(), 0u);
  EXPECT_EQ(store_->read(1, {1, ~Sequence{0}}, SIZE_MAX, 0)->size(), 1u);
  EXPECT_EQ(store_->read(1, {1, ~Sequence{0}}, SIZE_MAX, 2500)->size(), 3u);
  EXPECT_EQ(store_->read(1, {9, ~Sequence{0}}, SIZE_MAX, SIZE_MAX)->size(), 2u);
  EXPECT_EQ(store_->read(1, {11, ~Sequence{0}}, SIZE_MAX, SIZE_MAX)->size(), 0u);
}

TEST_F(StoreTest, ANewQueueStartsAtOne) {
  auto position = position_of(*store_, 5);
  EXPECT_EQ(position.watermark, 1u);
  EXPECT_EQ(position.next, 1u);
  EXPECT_EQ(position.delivered, 1u);
}

TEST_F(StoreTest, WhatLiesBehindTheWatermarkNeverComesBack) {
  commit_or_fail(*store_, append(1, 1, 10));
  commit_or_fail(*store_, append(2, 1, 10));
  commit_or_fail(*store_, advance(1, 8));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(sequences_of(*store_, 1), (Sequences{8, 9, 10}));
    EXPECT_EQ(all_of(*store_, 2).size(), 10u);
    EXPECT_EQ(position_of(*store_, 1).watermark, 8u);
    EXPECT_EQ(position_of(*store_, 1).next, 11u);
    reopen();
  }
}

TEST_F(StoreTest, AnEmptiedQueueGoesOnCountingWhereItWas) {
  commit_or_fail(*store_, append(1, 1, 10));
  commit_or_fail(*store_, advance(1, 11));
  reopen();
  EXPECT_EQ(position_of(*store_, 1).watermark, 11u);
  EXPECT_EQ(position_of(*store_, 1).next, 11u);
}

TEST_F(StoreTest, ASumSparesTheCountingAndPurgedRangesComeBack) {
  commit_or_fail(*store_, append(1, 1, 10));
  Batch batch = append(1, 11, 20);
  batch.removes.push_back({1, 5});
  batch.advances.push_back({1, 3, 21, 12, 345, {{8, 13}}});
  commit_or_fail(*store_, std::move(batch));
  commit_or_fail(*store_, append(1, 21, 23));
  for (int round = 0; round < 2; ++round) {
    QueuePosition position = position_of(*store_, 1);
    EXPECT_EQ(position.watermark, 3u);
    EXPECT_EQ(position.next, 24u);
    EXPECT_EQ(position.count, 15u);
    EXPECT_GT(position.bytes, 345u);
    EXPECT_EQ(position.purged, (std::vector<SequenceRange>{{8, 13}}));
    EXPECT_EQ(store_->queues(), std::vector<QueueId>{1});
    reopen();
  }
}

TEST_F(StoreTest, AGroupIsFoundAmongOthersAndGoesWithItsMessages) {
  Batch batch;
  for (Sequence at = 1; at <= 20; ++at) {
    batch.appends.push_back({1, at, Record::make({.routing_key = "k", .group = at % 4})});
  }
  batch.appends[3].attempts = 2;
  commit_or_fail(*store_, std::move(batch));
  Batch consumed = advance(1, 4);
  consumed.removes.push_back({1, 10, 2});
  commit_or_fail(*store_, std::move(consumed));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(store_->group(1, 2, {1, 21}, 100), (Sequences{6, 14, 18}));
    EXPECT_EQ(store_->group(1, 2, {7, 21}, 1), (Sequences{14}));
    EXPECT_EQ(store_->group(1, 3, {1, 15}, 100), (Sequences{7, 11}));
    EXPECT_EQ(store_->group(1, 9, {1, 21}, 100), Sequences());
    EXPECT_EQ(store_->group(2, 2, {1, 21}, 100), Sequences());
    EXPECT_EQ(all_of(*store_, 1)[0].attempts, 2u);
    EXPECT_EQ(all_of(*store_, 1)[1].record->group(), 1u);
    reopen();
  }
  commit_or_fail(*store_, drop(1));
  EXPECT_EQ(store_->group(1, 2, {1, 21}, 100), Sequences());
}

TEST_F(StoreTest, AWatermarkNeverMovesBack) {
  commit_or_fail(*store_, append(1, 1, 10));
  commit_or_fail(*store_, advance(1, 8));
  commit_or_fail(*store_, advance(1, 3));
  EXPECT_EQ(position_of(*store_, 1).watermark, 8u);
  reopen();
  EXPECT_EQ(position_of(*store_, 1).watermark, 8u);
}

TEST_F(StoreTest, MessagesAcknowledgedOutOfOrderAreGoneOneByOne) {
  commit_or_fail(*store_, append(1, 1, 6));
  commit_or_fail(*store_, remove(1, {2, 5}));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(sequences_of(*store_, 1), (Sequences{1, 3, 4, 6}));
    reopen();
  }
}

TEST_F(StoreTest, CancelledAppendsAreNotWritten) {
  Batch batch = append(1, 1, 5);
  batch.appends[1].record = nullptr;
  batch.appends[4].record = nullptr;
  commit_or_fail(*store_, std::move(batch));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(sequences_of(*store_, 1), (Sequences{1, 3, 4}));
    EXPECT_EQ(position_of(*store_, 1).next, 5u);
    reopen();
  }
}

TEST_F(StoreTest, AttemptsGoWithTheirMessage) {
  Batch batch = append(1, 1, 4);
  batch.attempts = {{1, 2, 1}, {1, 3, 7}};
  commit_or_fail(*store_, std::move(batch));
  Batch again;
  again.attempts = {{1, 2, 2}};
  commit_or_fail(*store_, std::move(again));
  for (int round = 0; round < 2; ++round) {
    auto found = all_of(*store_, 1);
    ASSERT_EQ(found.size(), 4u);
    EXPECT_EQ(found[0].attempts, 0u);
    EXPECT_EQ(found[1].attempts, 2u);
    EXPECT_EQ(found[2].attempts, 7u);
    EXPECT_EQ(found[3].attempts, 0u);
    reopen();
  }
}

TEST_F(StoreTest, ASequenceThatIsUsedAgainDoesNotInheritAttempts) {
  Batch batch = append(1, 1, 3);
  batch.attempts = {{1, 3, 4}};
  commit_or_fail(*store_, std::move(batch));
  reopen();  // so that the committer has to find the attempts first
  commit_or_fail(*store_, remove(1, {3}));
  reopen();
  ASSERT_EQ(position_of(*store_, 1).next, 3u);
  commit_or_fail(*store_, append(1, 3, 3));
  EXPECT_EQ(all_of(*store_, 1).at(2).attempts, 0u);
}

TEST_F(StoreTest, ADroppedQueueLeavesNothing) {
  Batch batch = append(1, 1, 100);
  batch.attempts = {{1, 50, 1}};
  batch.advances = {{1, 10}};
  commit_or_fail(*store_, std::move(batch));
  commit_or_fail(*store_, append(2, 1, 1));
  commit_or_fail(*store_, drop(1));
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(all_of(*store_, 1).empty());
    EXPECT_EQ(position_of(*store_, 1).watermark, 1u);
    EXPECT_EQ(sequences_of(*store_, 2), (Sequences{1}));
    reopen();
  }
}

TEST_F(StoreTest, TheCatalogIsSortedByKeyWithinAKind) {
  Batch batch;
  batch.definitions = {{CatalogKind::kQueue, "b", "2"},
                       {CatalogKind::kQueue, "a", "1"},
                       {CatalogKind::kExchange, "a", "other"},
                       {CatalogKind::kQueue, "", "empty"},
                       {CatalogKind::kSubscription, "z", std::string("\0\xff", 2)}};
  commit_or_fail(*store_, std::move(batch));
  Batch change;
  change.definitions = {{CatalogKind::kQueue, "b", "3"}, {CatalogKind::kExchange, "a", {}}};
  commit_or_fail(*store_, std::move(change));
  for (int round = 0; round < 2; ++round) {
    auto queues = store_->catalog(CatalogKind::kQueue);
    ASSERT_TRUE(queues && queues->size() == 3u);
    EXPECT_EQ((*queues)[0].key, "");
    EXPECT_EQ((*queues)[1].key, "a");
    EXPECT_EQ((*queues)[2].value, "3");
    EXPECT_TRUE(store_->catalog(CatalogKind::kExchange)->empty());
    EXPECT_EQ(store_->catalog(CatalogKind::kSubscription)->at(0).value, std::string("\0\xff", 2));
    reopen();
  }
}

TEST_F(StoreTest, BlobsOfAnySizeAreKept) {
  std::string large(20 << 20, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 2654435761u >> 13);
  Batch batch;
  batch.blobs = {{"large", large}, {"empty", std::string()}, {"gone", "x"}};
  commit_or_fail(*store_, std::move(batch));
  Batch erase;
  erase.blobs = {{"gone", {}}};
  commit_or_fail(*store_, std::move(erase));
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(store_->blob("large") == large);
    EXPECT_EQ(store_->blob("empty"), "");
    EXPECT_EQ(store_->blob("gone").error().code, Code::kNotFound);
    reopen();
  }
}

TEST_F(StoreTest, LargeBodiesComeBack) {
  std::string body(kBlobBytesMin * 3, 'b');
  Batch batch;
  for (Sequence at = 1; at <= 400; ++at) batch.appends.push_back({1, at, record_of(body)});
  commit_or_fail(*store_, std::move(batch));  // several memtables' worth
  commit_or_fail(*store_, advance(1, 200));
  reopen();
  auto found = store_->read(1, {1, ~Sequence{0}}, 3, SIZE_MAX);
  ASSERT_TRUE(found && found->size() == 3u);
  EXPECT_EQ(found->front().sequence, 200u);
  EXPECT_EQ(body_of(found->front()), body);
}

TEST_F(StoreTest, DeliveredIsExactAfterACleanStop) {
  commit_or_fail(*store_, append(1, 1, 10));
  commit_or_fail(*store_, append(2, 1, 10));
  ASSERT_TRUE(store_->close({{1, 4}}));
  reopen();
  EXPECT_EQ(position_of(*store_, 1).delivered, 4u);
  EXPECT_EQ(position_of(*store_, 2).delivered, 11u);  // nothing was said of it
}

TEST_F(StoreTest, DeliveredCoversEverythingAfterACrash) {
  commit_or_fail(*store_, append(1, 1, 10));
  ASSERT_TRUE(store_->close({{1, 4}}));
  reopen();  // takes the mark
  reopen();  // without close(): as after a crash
  EXPECT_EQ(position_of(*store_, 1).delivered, 11u);
  ASSERT_TRUE(store_->close({}));
  reopen();
  EXPECT_EQ(position_of(*store_, 1).delivered, 11u);  // the mark of two stops ago is not believed
}

TEST_F(StoreTest, DeliveredStaysWithinTheQueue) {
  commit_or_fail(*store_, append(1, 1, 10));
  commit_or_fail(*store_, append(2, 1, 10));
  commit_or_fail(*store_, advance(2, 6));
  ASSERT_TRUE(store_->close({{1, 99}, {2, 3}}));
  reopen();
  EXPECT_EQ(position_of(*store_, 1).delivered, 11u);
  EXPECT_EQ(position_of(*store_, 2).delivered, 6u);
}

TEST_F(StoreTest, CallbacksComeInOrderAndBringTheBatchBack) {
  std::mutex mutex;
  std::vector<size_t> order;
  constexpr size_t kCount = 2000;
  for (size_t i = 0; i < kCount; ++i) {
    auto batch = std::make_unique<Batch>();
    if (i % 3 != 0) batch->appends.push_back({1, i + 1, record_of("x")});
    Batch* raw = batch.get();
    store_->commit(std::move(batch), [&, i, raw](std::unique_ptr<Batch> back, Expected<> outcome) {
      EXPECT_TRUE(outcome);
      EXPECT_EQ(back.get(), raw);
      std::lock_guard lock(mutex);
      order.push_back(i);
    });
  }
  store_.reset();  // waits for all of them
  ASSERT_EQ(order.size(), kCount);
  EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST_F(StoreTest, ADamagedRecordIsAnErrorThatNamesIt) {
  commit_or_fail(*store_, append(3, 1, 5));
  store_.reset();
  {
    Watermarks watermarks;
    Engine engine;
    ASSERT_TRUE(open_engine(directory_.path(), nullptr, watermarks, kMessageBufferBytes, engine));
    ASSERT_TRUE(engine.db->Put({}, engine.messages, slice(MessageKey(3, 4).view()), "junk").ok());
  }
  reopen();
  EXPECT_EQ(store_->read(3, {1, ~Sequence{0}}, 3, SIZE_MAX)->size(), 3u);
  auto found = store_->read(3, {1, ~Sequence{0}}, SIZE_MAX, SIZE_MAX);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, Code::kCorrupt);
  EXPECT_NE(found.error().message.find("message 4 of queue 3"), std::string::npos);
}

TEST(OpenTest, ADirectoryInUseIsRefusedClearly) {
  TemporaryDirectory directory;
  auto store = open_or_fail(directory.path());
  auto second = open_rocksdb({.directory = directory.path()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kUnavailable);
  EXPECT_NE(second.error().message.find(directory.path()), std::string::npos);
}

TEST(OpenTest, MissingParentsAreCreated) {
  TemporaryDirectory directory;
  EXPECT_NE(open_or_fail(directory.path() + "/a/b/c"), nullptr);
}

TEST(OpenTest, APathThatIsAFileIsRefusedClearly) {
  auto store = open_rocksdb({.directory = "/dev/null"});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kIo);
  store = open_rocksdb({.directory = "/dev/null/below"});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kIo);
  EXPECT_NE(store.error().message.find("/dev/null"), std::string::npos);
}

// What an earlier or later version, or another program, may have left.
class ForeignDatabase {
 public:
  explicit ForeignDatabase(const std::string& directory) {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open(options, directory, &db).ok());
    db_.reset(db);
  }
  rocksdb::DB* operator->() { return db_.get(); }

 private:
  std::unique_ptr<rocksdb::DB> db_;
};

TEST(OpenTest, ANewerFormatIsRefused) {
  TemporaryDirectory directory;
  ForeignDatabase(directory.path())->Put({}, "format", std::string("\0\0\0\4", 4));
  auto store = open_rocksdb({.directory = directory.path()});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kInvalid);
  EXPECT_NE(store.error().message.find("format 4"), std::string::npos);
}

TEST(OpenTest, AnUnknownColumnFamilyIsRefused) {
  TemporaryDirectory directory;
  {
    ForeignDatabase newer(directory.path());
    rocksdb::ColumnFamilyHandle* handle = nullptr;
    ASSERT_TRUE(newer->CreateColumnFamily({}, "leases", &handle).ok());
    newer->DestroyColumnFamilyHandle(handle);
  }
  auto store = open_rocksdb({.directory = directory.path()});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kInvalid);
  EXPECT_NE(store.error().message.find("leases"), std::string::npos);
}

TEST(OpenTest, AnotherProgramsDatabaseIsRefused) {
  TemporaryDirectory directory;
  ForeignDatabase(directory.path())->Put({}, "theirs", "x");
  auto store = open_rocksdb({.directory = directory.path()});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kInvalid);
}

}  // namespace
}  // namespace sluice::storage
