// Damaged write-ahead logs: a torn end is normal, a hole is refused.

#include "storage/rocksdb/wal_check.h"

#include <algorithm>
#include <fstream>
#include <random>
#include <thread>

#include "storage/rocksdb/log_format.h"
#include "tests/storage/crash_support.h"

namespace sluice::storage {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> logs_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".log" && entry.file_size() > 0) {
      names.push_back(entry.path().string());
    }
  }
  std::ranges::sort(names);
  return names;
}

std::string contents(const std::string& name) {
  std::string bytes(fs::file_size(name), '\0');
  std::ifstream(name, std::ios::binary)
      .read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

// How much of a log is written; behind that a store which is open has zeros.
uint64_t written_bytes(const std::string& name) {
  return contents(name).find_last_not_of('\0') + 1;
}

void overwrite(const std::string& name, uint64_t at, std::string_view bytes) {
  std::fstream stream(name, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(at));
  stream << bytes;
}

// A directory whose only log holds 100 single commits of messages 1 to 100, then one large commit
// of 101 to 600.
class WalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = open_or_fail(directory_.path() + "/intact");
    ASSERT_NE(store, nullptr);
    for (Sequence at = 1; at <= 100; ++at) commit_or_fail(*store, append(1, at, at));
    store.reset();
    log_ = fs::path(logs_in(directory_.path() + "/intact").back()).filename().string();
    small_end_ = fs::file_size(directory_.path() + "/intact/" + log_);
    // Reopening would start another log.
    fs::remove_all(directory_.path() + "/intact");
    store = open_or_fail(directory_.path() + "/intact");
    for (Sequence at = 1; at <= 100; ++at) commit_or_fail(*store, append(1, at, at));
    commit_or_fail(*store, append(1, 101, 600, std::string(200, 'b')));
    store.reset();
    end_ = fs::file_size(directory_.path() + "/intact/" + log_);
    ASSERT_GT(end_, small_end_ + 100'000);
  }

  // A copy to damage; returns its log.
  std::string copy() {
    fs::remove_all(directory_.path() + "/copy");
    fs::copy(directory_.path() + "/intact", directory_.path() + "/copy");
    return directory_.path() + "/copy/" + log_;
  }

  Expected<std::unique_ptr<Store>> open_copy() {
    return open_rocksdb({.directory = directory_.path() + "/copy"});
  }

  // That many messages from 1 on survived; and the store goes on from there, twice.
  void expect_survivors(Sequence count) {
    for (Sequence extra = 0; extra < 2; ++extra) {
      auto store = open_copy();
      ASSERT_TRUE(store) << store.error().message;
      auto found = sequences_of(**store, 1);
      ASSERT_EQ(found.size(), count + extra);
      EXPECT_EQ(found.back(), count + extra);
      commit_or_fail(**store, append(1, count + extra + 1, count + extra + 1));
    }
  }

  TemporaryDirectory directory_;
  std::string log_;
  uint64_t small_end_ = 0;  // where the large commit begins
  uint64_t end_ = 0;
};

TEST_F(WalTest, AnIntactLogIsRecoveredWhole) {
  copy();
  expect_survivors(600);
}

TEST_F(WalTest, ZerosUpToItsEndAreRoomForMoreAndOthersAreAHole) {
  std::string log = copy();
  fs::resize_file(log, end_ + 1'000'000);
  expect_survivors(600);
  for (uint64_t kept : {end_ - 1'000, end_ - 50'000, small_end_ + 1}) {
    log = copy();
    fs::resize_file(log, kept);
    fs::resize_file(log, end_ + 1'000'000);
    expect_survivors(100);
  }
  log = copy();
  fs::resize_file(log, small_end_ / 2);
  fs::resize_file(log, end_ + 1'000'000);
  overwrite(log, end_ + 500'000, "the log goes on");
  auto store = open_copy();
  EXPECT_TRUE(store);  // as a torn write, since nothing that is whole follows
  store->reset();
  log = copy();
  overwrite(log, small_end_ / 2, std::string(small_end_ - small_end_ / 2, '\0'));
  store = open_copy();
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kCorrupt);
}

TEST_F(WalTest, ATornTailLosesTheUnfinishedWriteAndNothingElse) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 12; ++round) {
    fs::resize_file(copy(), small_end_ + 1 + random() % (end_ - small_end_ - 1));
    expect_survivors(100);
  }
}

TEST_F(WalTest, PagesOfTheLastWriteMayHaveArrivedInAnyOrder) {
  std::mt19937_64 random(2);
  constexpr uint64_t kPage = 4096;
  for (int round = 0; round < 12; ++round) {
    std::string log = copy();
    uint64_t first = small_end_ / kPage + 1;
    uint64_t page = round == 0 ? first : first + random() % (end_ / kPage - first);
    overwrite(log, page * kPage, std::string(kPage, '\0'));
    expect_survivors(100);
  }
}

TEST_F(WalTest, AFlippedBitInFrontOfOtherWritesIsRefused) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 40; ++round) {
    std::string log = copy();
    uint64_t at = random() % small_end_;
    std::string byte(1, contents(log)[at]);
    byte[0] = static_cast<char>(byte[0] ^ (1 << random() % 8));
    overwrite(log, at, byte);
    auto store = open_copy();
    ASSERT_FALSE(store) << "a flip at byte " << at << " went unnoticed";
    EXPECT_EQ(store.error().code, Code::kCorrupt);
    EXPECT_NE(store.error().message.find(log_), std::string::npos) << store.error().message;
  }
}

TEST_F(WalTest, AFlipIsRefusedAlsoWhereOnlySmallWritesFollowInItsBlock) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 40; ++round) {
    std::string log = copy();
    fs::resize_file(log, small_end_);
    uint64_t at = random() % (small_end_ * 9 / 10);
    std::string byte(1, contents(log)[at]);
    byte[0] = static_cast<char>(byte[0] ^ (1 << random() % 8));
    overwrite(log, at, byte);
    auto store = open_copy();
    ASSERT_FALSE(store) << "a flip at byte " << at << " went unnoticed";
    EXPECT_EQ(store.error().code, Code::kCorrupt);
  }
}

TEST_F(WalTest, AFlipInWhatOpeningWroteIsRefused) {
  for (uint64_t at = 0; at < 120; ++at) {
    std::string log = copy();
    std::string byte(1, contents(log)[at]);
    byte[0] = static_cast<char>(byte[0] ^ 0x10);
    overwrite(log, at, byte);
    EXPECT_FALSE(open_copy()) << "a flip at byte " << at << " went unnoticed";
  }
}

// What a power cut may do where not each write is synced.
TEST(WalSyncTest, DamageBehindTheLastSyncIsATornEndAndInFrontOfItAHole) {
  TemporaryDirectory directory;
  std::string path = directory.path() + "/store";
  RocksdbOptions options{.directory = path, .sync = SyncMode::kInterval};
  uint64_t synced_bytes = 0;
  {
    options.sync_interval = std::chrono::milliseconds(1);
    auto store = open_rocksdb(options);
    ASSERT_TRUE(store);
    for (Sequence at = 1; at <= 50; ++at) {
      commit_or_fail(**store, append(1, at, at));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // for syncs in between
    }
    synced_bytes = written_bytes(logs_in(path).back());
    for (Sequence at = 51; at <= 60; ++at) commit_or_fail(**store, append(1, at, at));
  }
  std::string log = logs_in(path).back();
  std::mt19937_64 random(5);
  auto flip = [&](uint64_t at) {
    std::string byte(1, contents(log)[at]);
    byte[0] = static_cast<char>(byte[0] ^ (1 << random() % 8));
    overwrite(log, at, byte);
  };
  flip(synced_bytes / 2);
  auto store = open_rocksdb(options);
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kCorrupt);
  fs::remove_all(path);

  options.sync_interval = std::chrono::hours(1);
  {
    auto written = open_rocksdb(options);
    ASSERT_TRUE(written);
    for (Sequence at = 1; at <= 60; ++at) commit_or_fail(**written, append(1, at, at));
    fs::copy(path, directory.path() + "/cut");  // before the sync of its end
  }
  options.directory = directory.path() + "/cut";
  log = logs_in(options.directory).back();
  flip(written_bytes(log) / 2);
  for (int round = 0; round < 2; ++round) {
    auto reopened = open_rocksdb(options);
    ASSERT_TRUE(reopened) << reopened.error().message;
    size_t count = all_of(**reopened, 1).size();
    EXPECT_GT(count, 10u);
    EXPECT_LT(count, 50u);
  }
}

// RocksDB takes the end of one log and the begin of the next for neighbours.
TEST(WalSyncTest, WhatFollowsAGapBetweenLogsWasNotSyncedAndIsDropped) {
  TemporaryDirectory directory;
  std::string path = directory.path() + "/store";
  RocksdbOptions options{
      .directory = path, .sync = SyncMode::kInterval, .sync_interval = std::chrono::hours(1)};
  {
    auto store = open_rocksdb(options);
    ASSERT_TRUE(store);
    for (Sequence at = 1; at <= 60; ++at) commit_or_fail(**store, append(1, at, at));
    fs::copy(path, directory.path() + "/uncut");  // before the sync of its end
  }
  std::string uncut = logs_in(directory.path() + "/uncut").back();
  std::string bytes = contents(uncut).substr(0, log_format::kBlockBytes);
  std::vector<std::string> writes;
  for (std::span<const uint8_t> left(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
       auto write = log_format::fragment_at(left);) {
    ASSERT_EQ(write->type, log_format::kFull);
    auto size = log_format::kHeaderBytes + write->payload.size();
    writes.emplace_back(reinterpret_cast<const char*>(left.data()), size);
    left = left.subspan(size);
  }
  ASSERT_GE(writes.size(), 60u);
  auto joined = [&](size_t begin, size_t end) {
    std::string all;
    for (size_t at = begin; at < end; ++at) all += writes[at];
    return all;
  };
  size_t end = writes.size();
  for (const std::string& tail : {std::string(), std::string(5000, '\0'), std::string("torn")}) {
    fs::remove_all(path);
    fs::copy(directory.path() + "/uncut", path);
    std::string log = path + "/" + fs::path(uncut).filename().string();
    std::ofstream(log, std::ios::binary) << joined(0, end - 30) << tail;
    for (int number : {900'000, 900'001}) {
      std::ofstream(path + "/" + std::to_string(number) + ".log", std::ios::binary)
          << (number == 900'000 ? joined(end - 20, end - 10) : joined(end - 10, end));
    }
    for (int round = 0; round < 2; ++round) {
      auto reopened = open_rocksdb(options);
      ASSERT_TRUE(reopened) << reopened.error().message;
      auto messages = all_of(**reopened, 1);
      EXPECT_EQ(messages.size(), 30u);
      EXPECT_EQ(messages.back().sequence, 30u);
    }
  }
}

// A power cut can undo the deletion of a log that an earlier recovery was done with.
TEST_F(WalTest, ATornLogOfAnEarlierStartDoesNotMatter) {
  std::string log = copy();
  expect_survivors(600);  // recovers, deletes the log, writes others
  ASSERT_FALSE(fs::exists(log));
  std::ofstream(log) << "torn in its first write";
  auto store = open_copy();
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(all_of(**store, 1).size(), 602u);
}

// Nothing that we know of leads there; RocksDB by itself would come up empty, without a word.
TEST_F(WalTest, ARecoveryThatStopsEarlyIsRefused) {
  copy();
  std::ofstream(directory_.path() + "/copy/000001.log") << "taken for the oldest log";
  auto store = open_copy();
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kCorrupt);
}

TEST_F(WalTest, ALostPageInFrontOfOtherWritesIsRefused) {
  overwrite(copy(), 4096, std::string(4096, '\0'));
  auto store = open_copy();
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Code::kCorrupt);
}

TEST(WalFilesTest, DamageInAnOlderLogIsRefusedAlsoAtItsEnd) {
  TemporaryDirectory directory;
  {
    auto store = open_rocksdb({.directory = directory.path(), .message_buffer_bytes = 128u << 10});
    ASSERT_TRUE(store);
    Batch definition;
    definition.definitions.push_back({CatalogKind::kQueue, "q", "keeps the oldest log"});
    commit_or_fail(**store, std::move(definition));
    for (Sequence at = 1; logs_in(directory.path()).size() < 2; at += 100) {
      commit_or_fail(**store, append(1, at, at + 99, std::string(200, 'b')));
    }
    commit_or_fail(**store, append(2, 1, 10));
  }
  auto logs = logs_in(directory.path());
  ASSERT_GE(logs.size(), 2u);
  uint64_t size = fs::file_size(logs[0]);
  for (uint64_t lost : {10u, 3'000u, 30'000u}) {
    fs::resize_file(logs[0], size - lost);
    for (uint64_t now : {size - lost, size, size + 40'000}) {
      fs::resize_file(logs[0], now);  // with zeros
      auto store = open_rocksdb({.directory = directory.path()});
      ASSERT_FALSE(store) << lost << " lost of " << size << ", now " << now;
      EXPECT_EQ(store.error().code, Code::kCorrupt);
    }
  }
}

TEST(WalFilesTest, AMissingLogIsRefused) {
  TemporaryDirectory directory;
  {
    auto store = open_rocksdb({.directory = directory.path(), .message_buffer_bytes = 128u << 10});
    ASSERT_TRUE(store);
    Batch definition;
    definition.definitions.push_back({CatalogKind::kQueue, "q", "keeps the oldest log"});
    commit_or_fail(**store, std::move(definition));
    for (Sequence at = 1; logs_in(directory.path()).size() < 2; at += 100) {
      commit_or_fail(**store, append(1, at, at + 99, std::string(200, 'b')));
    }
    commit_or_fail(**store, append(2, 1, 10));
  }
  fs::remove(logs_in(directory.path())[0]);
  EXPECT_FALSE(open_rocksdb({.directory = directory.path()}));
}

}  // namespace
}  // namespace sluice::storage
