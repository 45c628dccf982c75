// What is left on disk of consumed messages: nothing, tombstones included.

#include "storage/rocksdb/consumed_filter.h"

#include <chrono>
#include <future>
#include <thread>

#include "storage/limits.h"
#include "storage/rocksdb/committer.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "tests/storage/faulty_file_system.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

struct Tables {
  uint64_t entries = 0;
  uint64_t tombstones = 0;
  uint64_t range_tombstones = 0;
  bool operator==(const Tables&) const = default;
};

void PrintTo(const Tables& tables, std::ostream* out) {
  *out << tables.entries << " entries, " << tables.tombstones << " tombstones, "
       << tables.range_tombstones << " range tombstones";
}

class ConsumedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened =
        open_engine(directory_.path(), system_.env(), watermarks_, kMessageBufferBytes, engine_);
    ASSERT_TRUE(opened) << opened.error().message;
    committer_ =
        std::make_unique<Committer>(engine_, watermarks_, bodies_, times_, CommitterOptions{});
  }

  Expected<> commit(Batch batch) {
    std::promise<Expected<>> done;
    committer_->commit(
        std::make_unique<Batch>(std::move(batch)),
        [&](std::unique_ptr<Batch>, Expected<> outcome) { done.set_value(outcome); });
    return done.get_future().get();
  }

  void flush() {
    for (auto* column : {engine_.messages, engine_.attempts}) {
      ASSERT_TRUE(engine_.db->Flush({}, column).ok());
    }
  }

  void compact() {
    for (auto* column : {engine_.messages, engine_.attempts}) {
      ASSERT_TRUE(engine_.db->CompactRange({}, column, nullptr, nullptr).ok());
    }
  }

  // RocksDB counts tombstones among the entries.
  Tables tables(rocksdb::ColumnFamilyHandle* column) {
    rocksdb::TablePropertiesCollection all;
    EXPECT_TRUE(engine_.db->GetPropertiesOfAllTables(column, &all).ok());
    Tables sum;
    for (const auto& [name, one] : all) {
      sum.entries += one->num_entries - one->num_deletions - one->num_range_deletions;
      sum.tombstones += one->num_deletions;
      sum.range_tombstones += one->num_range_deletions;
    }
    return sum;
  }

  uint64_t number(const std::string& property) {
    uint64_t value = 0;
    EXPECT_TRUE(engine_.db->GetIntProperty(engine_.messages, property, &value));
    return value;
  }

  TemporaryDirectory directory_;
  FaultyFileSystem system_;
  Watermarks watermarks_;
  Engine engine_;
  BodyTable bodies_{engine_, watermarks_, std::make_shared<HeldBodies>()};
  TimeTable times_{engine_, watermarks_, bodies_};
  std::unique_ptr<Committer> committer_;
};

TEST_F(ConsumedTest, AFlushWritesNothingThatWasConsumedInOrder) {
  ASSERT_TRUE(commit(append(1, 1, 1000)));
  ASSERT_TRUE(commit(append(2, 1, 1000)));
  ASSERT_TRUE(commit(advance(1, 1001)));
  ASSERT_TRUE(commit(advance(2, 501)));
  flush();
  EXPECT_EQ(tables(engine_.messages), (Tables{500, 0, 0}));
}

TEST_F(ConsumedTest, ACompactionDropsWhatWasConsumedSinceWithoutATombstone) {
  ASSERT_TRUE(commit(append(1, 1, 1000)));
  ASSERT_TRUE(commit(append(2, 1, 1000)));
  flush();
  ASSERT_TRUE(commit(append(1, 1001, 2000)));
  flush();
  EXPECT_EQ(tables(engine_.messages), (Tables{3000, 0, 0}));
  ASSERT_TRUE(commit(advance(1, 1501)));
  compact();
  EXPECT_EQ(tables(engine_.messages), (Tables{1500, 0, 0}));
  ASSERT_TRUE(commit(advance(1, 2001)));
  ASSERT_TRUE(commit(advance(2, 1001)));
  compact();
  EXPECT_EQ(tables(engine_.messages), (Tables{0, 0, 0}));
  EXPECT_EQ(number("rocksdb.total-sst-files-size"), 0u);
}

TEST_F(ConsumedTest, TombstonesOfOutOfOrderAcksGoWithTheirMessages) {
  ASSERT_TRUE(commit(append(1, 1, 1000)));
  flush();
  std::vector<Sequence> odd;
  for (Sequence at = 1; at <= 1000; at += 2) odd.push_back(at);
  ASSERT_TRUE(commit(remove(1, odd)));
  flush();
  EXPECT_EQ(tables(engine_.messages), (Tables{1000, 500, 0}));
  compact();
  EXPECT_EQ(tables(engine_.messages), (Tables{500, 0, 0}));
}

TEST_F(ConsumedTest, AttemptsGoWithTheirMessages) {
  Batch batch = append(1, 1, 100);
  for (Sequence at = 1; at <= 100; ++at) batch.attempts.push_back({1, at, 1});
  ASSERT_TRUE(commit(std::move(batch)));
  flush();
  ASSERT_TRUE(commit(advance(1, 51)));
  ASSERT_TRUE(commit(remove(1, {60, 61})));
  compact();
  EXPECT_EQ(tables(engine_.attempts), (Tables{48, 0, 0}));
  EXPECT_EQ(tables(engine_.messages), (Tables{48, 0, 0}));
}

TEST_F(ConsumedTest, ADroppedQueueLeavesNothing) {
  ASSERT_TRUE(commit(append(1, 1, 1000)));
  ASSERT_TRUE(commit(append(2, 1, 10)));
  flush();
  ASSERT_TRUE(commit(append(1, 1001, 2000)));
  ASSERT_TRUE(commit(drop(1)));
  flush();
  compact();
  EXPECT_EQ(tables(engine_.messages), (Tables{10, 0, 0}));
  EXPECT_EQ(tables(engine_.attempts), (Tables{0, 0, 0}));
}

TEST_F(ConsumedTest, ADroppedQueueIsForgottenOnceNothingIsLeft) {
  ASSERT_TRUE(commit(append(1, 1, 10)));
  ASSERT_TRUE(commit(drop(1)));
  auto entries = [this] {
    std::unique_ptr<rocksdb::Iterator> at(engine_.db->NewIterator({}, engine_.queues));
    size_t count = 0;
    for (at->SeekToFirst(); at->Valid(); at->Next()) ++count;
    return count;
  };
  EXPECT_EQ(entries(), 1u);
  ASSERT_TRUE(
      engine_.db->Put({}, engine_.meta, slice(kFormatKey), std::string("\0\0\0\3", 4)).ok());
  compact();
  committer_.reset();
  engine_.close();
  ASSERT_NE(open_or_fail(directory_.path()), nullptr);
  ASSERT_TRUE(open_engine(directory_.path(), nullptr, watermarks_, kMessageBufferBytes, engine_));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(ConsumedTest, LargeBodiesGiveTheirFilesBack) {
  Batch batch;
  std::string body(2 * kBlobBytesMin, 'b');
  for (Sequence at = 1; at <= 50; ++at) batch.appends.push_back({1, at, record_of(body)});
  ASSERT_TRUE(commit(std::move(batch)));
  flush();
  EXPECT_GT(number("rocksdb.total-blob-file-size"), 50 * kBlobBytesMin);
  ASSERT_TRUE(commit(advance(1, 51)));
  compact();
  EXPECT_EQ(number("rocksdb.total-blob-file-size"), 0u);
}

TEST_F(ConsumedTest, WholeFilesAreGivenBackWithoutACompaction) {
  constexpr Sequence kCount = kReclaimMessages + 10;
  for (Sequence at = 1; at <= kCount; at += 1000) ASSERT_TRUE(commit(append(1, at, at + 999)));
  compact();  // out of level 0
  EXPECT_GT(number("rocksdb.total-sst-files-size"), 0u);
  ASSERT_TRUE(commit(advance(1, kCount + 1000)));
  EXPECT_EQ(number("rocksdb.total-sst-files-size"), 0u);
}

TEST_F(ConsumedTest, AnIdleStoreGivesItsMemoryBack) {
  committer_.reset();
  committer_ = std::make_unique<Committer>(engine_, watermarks_, bodies_, times_,
                                           CommitterOptions{.idle = std::chrono::milliseconds(1)});
  ASSERT_TRUE(commit(append(1, 1, 20'000)));
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (number("rocksdb.cur-size-all-mem-tables") > (1u << 20) &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_LT(number("rocksdb.cur-size-all-mem-tables"), 1u << 20);
  ASSERT_TRUE(commit(append(1, 20'001, 20'010)));  // and goes on
}

TEST_F(ConsumedTest, AWatermarkThatDidNotReachTheDiskIsNotUsed) {
  ASSERT_TRUE(commit(append(1, 1, 100)));
  system_.fail_from(FaultyFileSystem::Operation::kSync, ".log", 0, rocksdb::IOStatus::IOError());
  EXPECT_FALSE(commit(advance(1, 101)));
  EXPECT_EQ(watermarks_.synced(1), 1u);
}

// A power cut may take the write that consumed them, and then they are due again.
TEST_F(ConsumedTest, AWatermarkThatIsNotSyncedYetIsReadButNothingIsDroppedByIt) {
  committer_.reset();
  committer_ = std::make_unique<Committer>(
      engine_, watermarks_, bodies_, times_,
      CommitterOptions{.sync = SyncMode::kInterval, .sync_interval = std::chrono::hours(1)});
  ASSERT_TRUE(commit(append(1, 1, 100)));
  ASSERT_TRUE(commit(advance(1, 51)));
  EXPECT_EQ(watermarks_.get(1), 51u);
  EXPECT_EQ(watermarks_.synced(1), 1u);
  flush();
  EXPECT_EQ(tables(engine_.messages), (Tables{100, 0, 0}));
  ASSERT_TRUE(committer_->stop());  // syncs
  EXPECT_EQ(watermarks_.synced(1), 51u);
  compact();
  EXPECT_EQ(tables(engine_.messages), (Tables{50, 0, 0}));
}

}  // namespace
}  // namespace sluice::storage
