// Batches of several sources that are written together (Tie).

#include <future>

#include "tests/storage/crash_support.h"
#include "tests/storage/faulty_file_system.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

using namespace std::chrono_literals;

Batch from(uint64_t source, Batch batch, std::vector<std::shared_ptr<Tie>> ties = {}) {
  batch.source = source;
  batch.ties = std::move(ties);
  return batch;
}

bool is_done(std::future<Expected<>>& future) {
  return future.wait_for(0s) == std::future_status::ready;
}

TEST(TieTest, ABatchWaitsForItsPartnerAndHoldsUpItsOwnSourceAlone) {
  TemporaryDirectory directory;
  auto store = open_or_fail(directory.path());
  auto tie = std::make_shared<Tie>(2);
  auto first = commit(*store, from(1, append(10, 1, 1), {tie}));
  auto behind = commit(*store, from(1, append(10, 2, 2)));
  auto other = commit(*store, from(2, append(20, 1, 1)));
  auto nobodys = commit(*store, append(30, 1, 1));
  EXPECT_TRUE(other.get());
  EXPECT_TRUE(nobodys.get());
  EXPECT_FALSE(is_done(first));
  EXPECT_FALSE(is_done(behind));
  auto partner = commit(*store, from(2, append(20, 2, 2), {tie}));
  EXPECT_TRUE(partner.get());
  EXPECT_TRUE(first.get());
  EXPECT_TRUE(behind.get());
  EXPECT_EQ(store->read(10, {1, 9}, 9, 1 << 20)->size(), 2u);
  EXPECT_EQ(store->read(20, {1, 9}, 9, 1 << 20)->size(), 2u);
}

TEST(TieTest, SourcesThatAreTiedCrosswiseDoNotWaitForEver) {
  TemporaryDirectory directory;
  auto store = open_or_fail(directory.path());
  auto one = std::make_shared<Tie>(2), two = std::make_shared<Tie>(2);
  std::vector<std::future<Expected<>>> commits;
  commits.push_back(commit(*store, from(1, append(10, 1, 1), {one})));
  commits.push_back(commit(*store, from(2, append(20, 1, 1), {two})));
  commits.push_back(commit(*store, from(1, append(10, 2, 2), {two})));
  EXPECT_FALSE(is_done(commits[1]));
  commits.push_back(commit(*store, from(2, append(20, 2, 2), {one})));
  for (auto& done : commits) EXPECT_TRUE(done.get());
}

// A chain over several sources that is complete only with its last batch.
TEST(TieTest, AChainOfTiesIsWrittenWithItsLastLink) {
  TemporaryDirectory directory;
  auto store = open_or_fail(directory.path());
  constexpr uint64_t kSources = 5;
  std::vector<std::shared_ptr<Tie>> ties;
  for (uint64_t i = 0; i + 1 < kSources; ++i) ties.push_back(std::make_shared<Tie>(2));
  std::vector<std::future<Expected<>>> commits;
  for (uint64_t i = 0; i < kSources; ++i) {
    std::vector<std::shared_ptr<Tie>> mine;
    if (i > 0) mine.push_back(ties[i - 1]);
    if (i + 1 < kSources) mine.push_back(ties[i]);
    for (auto& done : commits) EXPECT_FALSE(is_done(done));
    commits.push_back(commit(*store, from(i + 1, append(i + 1, 1, 1), mine)));
  }
  for (auto& done : commits) EXPECT_TRUE(done.get());
}

// Each write of the log fails in turn: what is tied is there as a whole or not at all.
TEST(TieTest, WhatIsTiedIsOneWrite) {
  for (int writes = 0; writes < 12; ++writes) {
    TemporaryDirectory directory;
    FaultyFileSystem system;
    auto store = open_rocksdb({.directory = directory.path(), .env = system.env()});
    ASSERT_TRUE(store) << store.error().message;
    system.fail_from(FaultyFileSystem::Operation::kAppend, ".log", writes,
                     rocksdb::IOStatus::IOError());
    constexpr Sequence kPairs = 10;
    std::vector<std::future<Expected<>>> commits;
    for (Sequence at = 1; at <= kPairs; ++at) {
      auto tie = std::make_shared<Tie>(2);
      commits.push_back(commit(**store, from(1, append(10, at, at), {tie})));
      commits.push_back(commit(**store, from(2, append(20, at, at), {tie})));
      commits.back().wait();
    }
    size_t confirmed = 0;
    for (auto& done : commits) confirmed += done.get().has_value() ? 1 : 0;
    store->reset();
    system.repair();
    auto after = open_or_fail(directory.path());
    ASSERT_NE(after, nullptr);
    auto left = after->read(10, {1, kPairs + 1}, kPairs, 1 << 20);
    auto right = after->read(20, {1, kPairs + 1}, kPairs, 1 << 20);
    EXPECT_EQ(left->size(), right->size());
    EXPECT_GE(left->size() * 2, confirmed);
  }
}

}  // namespace
}  // namespace sluice::storage
