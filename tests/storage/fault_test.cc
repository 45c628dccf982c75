// Disks that fail while the store writes, and what shares a sync.

#include <future>

#include "tests/storage/crash_support.h"
#include "tests/storage/faulty_file_system.h"

namespace sluice::storage {
namespace {

using Operation = FaultyFileSystem::Operation;

struct Case {
  const char* name;
  Operation operation;
  const char* suffix;
  int after;  // operations that still succeed
  rocksdb::IOStatus error;
};

class FaultTest : public ::testing::TestWithParam<Case> {};

TEST_P(FaultTest, NothingIsConfirmedOrWrittenAfterItAndARestartRecovers) {
  constexpr uint64_t kSeed = 7;
  TemporaryDirectory directory;
  FaultyFileSystem system;
  RocksdbOptions options{
      .directory = directory.path(), .env = system.env(), .message_buffer_bytes = 128u << 10};
  auto store = open_rocksdb(options);
  ASSERT_TRUE(store) << store.error().message;
  Progress progress = drive(**store, kSeed, 0, 50, 4);
  ASSERT_EQ(progress.confirmed, 50u);

  const Case& fault = GetParam();
  system.fail_from(fault.operation, fault.suffix, fault.after, fault.error);
  progress = drive(**store, kSeed, 50, 20'000, 4);
  ASSERT_LT(progress.confirmed, progress.submitted);

  system.repair();  // comes too late: what the disk holds is unknown
  auto syncs = system.syncs(".log");
  auto first = commit(**store, append(900, 1, 10)).get();
  auto second = commit(**store, Batch()).get();
  ASSERT_FALSE(first);
  ASSERT_FALSE(second);
  EXPECT_EQ(first.error().code, Code::kIo);
  EXPECT_EQ(first.error().message, second.error().message);
  EXPECT_FALSE((*store)->close({}));
  store->reset();
  EXPECT_EQ(system.syncs(".log"), syncs);

  auto after = open_or_fail(directory.path());
  ASSERT_NE(after, nullptr);
  EXPECT_TRUE(all_of(*after, 900).empty());
  recovered(*after, kSeed, progress);
}

INSTANTIATE_TEST_SUITE_P(
    Faults, FaultTest,
    ::testing::Values(
        Case{"LogSync", Operation::kSync, ".log", 3, rocksdb::IOStatus::IOError()},
        Case{"LogAppend", Operation::kAppend, ".log", 3, rocksdb::IOStatus::IOError()},
        Case{"FullDiskUnderTheLog", Operation::kAppend, ".log", 5, rocksdb::IOStatus::NoSpace()},
        Case{"FullDiskUnderATable", Operation::kAppend, ".sst", 5, rocksdb::IOStatus::NoSpace()},
        Case{"TableSync", Operation::kSync, ".sst", 1, rocksdb::IOStatus::IOError()}),
    [](const auto& info) { return info.param.name; });

// Each write and each sync of a short life in turn, whatever the file.
TEST(EachCallTest, AFaultIsToldOrHarmlessAndNothingConfirmedIsLost) {
  const rocksdb::IOStatus errors[] = {rocksdb::IOStatus::IOError(), rocksdb::IOStatus::NoSpace()};
  uint64_t faults = 0;
  for (auto operation : {Operation::kAppend, Operation::kSync}) {
    bool met = true;
    // A third of the calls in each run, so that all are met in three.
    for (int call = static_cast<int>(std::random_device()() % 3); met; call += 3) {
      SCOPED_TRACE((operation == Operation::kSync ? "sync " : "append ") + std::to_string(call));
      TemporaryDirectory directory;
      FaultyFileSystem system;
      system.fail_from(operation, "", call, errors[call % 2]);
      Progress progress;
      {
        auto store = open_rocksdb({.directory = directory.path(),
                                   .env = system.env(),
                                   .message_buffer_bytes = 128u << 10});
        met = !store;
        if (store) {
          progress = drive(**store, 11, 0, 60, 4);
          met = progress.confirmed < progress.submitted || !(*store)->close({});
        }
      }
      faults += met;
      auto after = open_or_fail(directory.path());
      ASSERT_NE(after, nullptr);
      recovered(*after, 11, progress);
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(faults, 20u);
}

class SharedSyncTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = open_or_fail(directory_.path(), system_.env());
    ASSERT_NE(store_, nullptr);
  }

  TemporaryDirectory directory_;
  FaultyFileSystem system_;
  std::unique_ptr<Store> store_;
};

TEST_F(SharedSyncTest, BatchesThatWaitShareOneSync) {
  std::promise<void> busy, go_on;
  store_->commit(std::make_unique<Batch>(append(1, 1, 1)), [&](std::unique_ptr<Batch>, Expected<>) {
    busy.set_value();
    go_on.get_future().wait();
  });
  busy.get_future().wait();
  auto before = system_.syncs(".log");
  std::vector<std::future<Expected<>>> waiting;
  for (Sequence at = 2; at <= 200; ++at) waiting.push_back(commit(*store_, append(1, at, at)));
  go_on.set_value();
  for (auto& one : waiting) EXPECT_TRUE(one.get());
  EXPECT_EQ(system_.syncs(".log"), before + 1);
  EXPECT_EQ(all_of(*store_, 1).size(), 200u);
}

TEST_F(SharedSyncTest, EachCommitOfItsOwnIsSyncedBeforeItIsConfirmed) {
  auto before = system_.syncs(".log");
  for (Sequence at = 1; at <= 10; ++at) {
    commit_or_fail(*store_, append(1, at, at));
    EXPECT_EQ(system_.syncs(".log"), before + static_cast<int64_t>(at));
  }
}

TEST_F(SharedSyncTest, InIntervalsTheSyncComesAfterTheConfirmAndByItself) {
  auto interval = std::chrono::milliseconds(50);
  store_.reset();
  auto store = open_rocksdb({.directory = directory_.path(),
                             .env = system_.env(),
                             .sync = SyncMode::kInterval,
                             .sync_interval = interval});
  ASSERT_TRUE(store) << store.error().message;
  auto before = system_.syncs(".log");
  auto began = std::chrono::steady_clock::now();
  for (Sequence at = 1; at <= 100; ++at) commit_or_fail(**store, append(1, at, at));
  auto periods = (std::chrono::steady_clock::now() - began) / interval;
  EXPECT_LE(system_.syncs(".log"), before + periods + 1);
  before = system_.syncs(".log");
  commit_or_fail(**store, append(1, 101, 101));
  while (system_.syncs(".log") == before) std::this_thread::yield();
}

TEST_F(SharedSyncTest, AFailedSyncThatCameLaterIsFinalToo) {
  store_.reset();
  auto store = open_rocksdb({.directory = directory_.path(),
                             .env = system_.env(),
                             .sync = SyncMode::kInterval,
                             .sync_interval = std::chrono::milliseconds(1)});
  ASSERT_TRUE(store) << store.error().message;
  system_.fail_from(Operation::kSync, ".log", 0, rocksdb::IOStatus::IOError());
  Sequence at = 1;
  while (commit(**store, append(1, at, at)).get()) ++at;
  system_.repair();
  EXPECT_FALSE(commit(**store, append(1, at, at)).get());
  EXPECT_FALSE((*store)->close({}));
}

TEST_F(SharedSyncTest, WithoutSyncsOnlyACleanStopSyncs) {
  store_.reset();
  auto store =
      open_rocksdb({.directory = directory_.path(), .env = system_.env(), .sync = SyncMode::kNone});
  ASSERT_TRUE(store) << store.error().message;
  auto before = system_.syncs(".log");
  for (Sequence at = 1; at <= 100; ++at) commit_or_fail(**store, append(1, at, at));
  EXPECT_EQ(system_.syncs(".log"), before);
  EXPECT_TRUE((*store)->close({}));
  EXPECT_GT(system_.syncs(".log"), before);
}

TEST_F(SharedSyncTest, NothingToWriteIsConfirmedWithoutASync) {
  auto before = system_.syncs(".log");
  commit_or_fail(*store_, Batch());
  Batch cancelled = append(1, 1, 5);
  for (auto& one : cancelled.appends) one.record = nullptr;
  commit_or_fail(*store_, std::move(cancelled));
  EXPECT_EQ(system_.syncs(".log"), before);
}

TEST_F(SharedSyncTest, WhatAWaitingBatchConsumedIsNeverWritten) {
  std::promise<void> busy, go_on;
  store_->commit(std::make_unique<Batch>(append(1, 1, 1)), [&](std::unique_ptr<Batch>, Expected<>) {
    busy.set_value();
    go_on.get_future().wait();
  });
  busy.get_future().wait();
  auto appended = commit(*store_, append(1, 2, 500));
  auto consumed = commit(*store_, advance(1, 499));
  go_on.set_value();
  EXPECT_TRUE(appended.get());
  EXPECT_TRUE(consumed.get());
  EXPECT_EQ(sequences_of(*store_, 1), (std::vector<Sequence>{499, 500}));
}

}  // namespace
}  // namespace sluice::storage
