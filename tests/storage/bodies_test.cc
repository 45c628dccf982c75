// External bodies: stored once, there as long as a message refers to them or somebody holds them,
// and gone from the disk after that, whatever happened in between.

#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/storage/bodies_support.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

class BodiesTest : public ::testing::Test {
 protected:
  void SetUp() override { open(); }

  void open() {
    store_ = open_or_fail(directory_.path());
    ASSERT_NE(store_, nullptr);
  }
  // Without a clean stop: what is in RAM is lost, as in a crash.
  void crash() { store_.reset(); }
  void reopen() {
    crash();
    open();
  }

  // All of a body, in a batch that may be added to.
  Batch with_body(BodyPtr& body, std::string_view bytes) {
    Batch batch;
    body = put_body(*store_, batch, bytes, 1000);
    return batch;
  }

  // How many bodies have chunks on disk. The store must not be open.
  std::set<BodyId> on_disk() { return stored_bodies(directory_.path()); }

  TemporaryDirectory directory_;
  std::unique_ptr<Store> store_;
};

std::string some_bytes(size_t size, uint32_t seed = 1) {
  std::minstd_rand random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST_F(BodiesTest, ABodyComesBackWithItsMessage) {
  std::string bytes = some_bytes(10'500);
  BodyPtr body;
  Batch batch = with_body(body, bytes);
  batch.appends.push_back({1, 1, record_with(body)});
  commit_or_fail(*store_, std::move(batch));
  body.reset();
  for (int i = 0; i < 2; ++i) {
    auto messages = all_of(*store_, 1);
    ASSERT_EQ(messages.size(), 1u);
    ASSERT_NE(messages[0].record->external(), nullptr);
    EXPECT_EQ(messages[0].record->body_bytes(), bytes.size());
    EXPECT_TRUE(messages[0].record->body().empty());
    EXPECT_EQ(read_body(*store_, *messages[0].record->external()), bytes);
    messages.clear();
    reopen();
  }
}

TEST_F(BodiesTest, AChunkIsNotFoundBeforeItIsCommitted) {
  BodyPtr body = store_->new_body(5);
  auto read = store_->read_chunk(body->id(), 0);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kNotFound);
}

TEST_F(BodiesTest, ManyQueuesStoreItOnceAndTheLastOneEndsIt) {
  BodyPtr body;
  Batch batch = with_body(body, some_bytes(5'000));
  for (QueueId queue = 1; queue <= 50; ++queue) {
    batch.appends.push_back({queue, 1, record_with(body)});
  }
  commit_or_fail(*store_, std::move(batch));
  body.reset();
  for (QueueId queue = 1; queue <= 49; ++queue) {
    Batch consumed;
    if (queue % 3 == 0) consumed = remove(queue, {1});
    if (queue % 3 == 1) consumed = advance(queue, 2);
    if (queue % 3 == 2) consumed = drop(queue);
    commit_or_fail(*store_, std::move(consumed));
    if (queue % 20 == 0) reopen();
  }
  EXPECT_EQ(read_body(*store_, *all_of(*store_, 50)[0].record->external()), some_bytes(5'000));
  commit_or_fail(*store_, advance(50, 2));
  crash();
  EXPECT_TRUE(on_disk().empty());
}

TEST_F(BodiesTest, AHeldBodyStaysUntilItIsLetGoOf) {
  BodyPtr body;
  Batch batch = with_body(body, some_bytes(3'000));
  batch.appends.push_back({1, 1, record_with(body)});
  commit_or_fail(*store_, std::move(batch));
  commit_or_fail(*store_, advance(1, 2));
  EXPECT_EQ(read_body(*store_, *body), some_bytes(3'000));
  BodyId id = body->id();
  body.reset();
  EXPECT_TRUE(gone(*store_, id));
  crash();
  EXPECT_TRUE(on_disk().empty());
}

// Dead-lettering: the body is in another queue before it leaves the first.
TEST_F(BodiesTest, ABodyMovesFromQueueToQueueInOneBatch) {
  BodyPtr body;
  Batch batch = with_body(body, some_bytes(3'000));
  batch.appends.push_back({1, 1, record_with(body)});
  commit_or_fail(*store_, std::move(batch));
  body.reset();
  for (QueueId queue = 1; queue < 6; ++queue) {
    Batch move = advance(queue, 2);
    move.appends.push_back({queue + 1, 1, all_of(*store_, queue)[0].record});
    commit_or_fail(*store_, std::move(move));
    reopen();
  }
  EXPECT_EQ(read_body(*store_, *all_of(*store_, 6)[0].record->external()), some_bytes(3'000));
}

TEST_F(BodiesTest, WhatAPublisherLeftUnfinishedGoes) {
  BodyPtr body = store_->new_body(9'000);
  BodyId id = body->id();
  Batch first;
  first.chunks.push_back({id, 0, 9, some_bytes(1000)});
  commit_or_fail(*store_, std::move(first));
  EXPECT_TRUE(store_->read_chunk(id, 0));
  Batch second;
  second.chunks.push_back({id, 1, 9, some_bytes(1000)});
  body.reset();
  commit_or_fail(*store_, std::move(second));
  EXPECT_TRUE(gone(*store_, id));
  crash();
  EXPECT_TRUE(on_disk().empty());
}

TEST_F(BodiesTest, ACrashLeavesNoOrphans) {
  // Unfinished; finished and in no stored message; consumed while it was held; and one to keep.
  BodyPtr unfinished = store_->new_body(9'000);
  Batch batch;
  batch.chunks.push_back({unfinished->id(), 0, 9, some_bytes(1000)});
  BodyPtr transient = put_body(*store_, batch, some_bytes(2'500), 1000);
  BodyPtr held = put_body(*store_, batch, some_bytes(2'500), 1000);
  BodyPtr kept = put_body(*store_, batch, some_bytes(2'500, 7), 1000);
  batch.appends.push_back({1, 1, record_with(held)});
  batch.appends.push_back({2, 1, record_with(kept)});
  commit_or_fail(*store_, std::move(batch));
  commit_or_fail(*store_, advance(1, 2));
  crash();
  EXPECT_EQ(on_disk().size(), 4u);
  open();
  EXPECT_TRUE(gone(*store_, unfinished->id()));
  EXPECT_TRUE(gone(*store_, transient->id()));
  EXPECT_TRUE(gone(*store_, held->id()));
  EXPECT_EQ(read_body(*store_, *all_of(*store_, 2)[0].record->external()), some_bytes(2'500, 7));
  EXPECT_GT(store_->new_body(1)->id(), kept->id());
  crash();
  EXPECT_EQ(on_disk(), std::set<BodyId>{kept->id()});
}

// More references than one write looks through, and a stop in the middle of it.
TEST_F(BodiesTest, APurgeGoesOnInStepsAlsoAfterARestart) {
  constexpr Sequence kCount = 10 * kSweepRefsMax;
  for (Sequence at = 1; at <= kCount; at += 1000) {
    Batch batch;
    for (Sequence next = at; next < at + 1000; ++next) {
      BodyPtr body = put_body(*store_, batch, some_bytes(10), 1000);
      batch.appends.push_back({1, next, record_with(body)});
    }
    commit_or_fail(*store_, std::move(batch));
  }
  commit_or_fail(*store_, advance(1, kCount - 10));
  crash();
  size_t left = on_disk().size();
  EXPECT_GT(left, 11u);
  open();
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (left != 11 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    commit_or_fail(*store_, drop(99));
    crash();
    left = on_disk().size();
    open();
  }
  EXPECT_EQ(left, 11u);
  EXPECT_EQ(all_of(*store_, 1).size(), 11u);
}

// In one write of the committer: there the index on disk does not know the references yet.
TEST_F(BodiesTest, PublishedAndConsumedInBatchesThatShareAWrite) {
  std::vector<std::future<Expected<>>> done;
  std::vector<BodyId> ids;
  for (Sequence at = 1; at <= 200; ++at) {
    BodyPtr body;
    Batch batch = with_body(body, some_bytes(1'500));
    ids.push_back(body->id());
    batch.appends.push_back({1, at, record_with(body)});
    batch.appends.push_back({2, at, record_with(body)});
    done.push_back(commit(*store_, std::move(batch)));
    if (at > 1) done.push_back(commit(*store_, remove(1, {at})));
    done.push_back(commit(*store_, advance(2, at + 1)));
  }
  for (auto& one : done) ASSERT_TRUE(one.get());
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_TRUE(gone(*store_, ids[i]));
  EXPECT_EQ(sequences_of(*store_, 1), std::vector<Sequence>{1});
  crash();
  EXPECT_EQ(on_disk(), std::set<BodyId>{ids[0]});
}

TEST_F(BodiesTest, DiskSpaceComesBack) {
  constexpr size_t kBodyBytes = 8u << 20;
  std::string bytes = some_bytes(kBodyBytes);
  for (Sequence at = 1; at <= 40; ++at) {
    Batch batch;
    BodyPtr body = put_body(*store_, batch, bytes, kChunkBytes);
    batch.appends.push_back({1, at, record_with(body)});
    commit_or_fail(*store_, std::move(batch));
  }
  EXPECT_GT(bytes_in(directory_.path()), 40 * kBodyBytes);
  commit_or_fail(*store_, advance(1, 41));
  // The logs go when what is in memory was flushed, the blob files when that was compacted.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (bytes_in(directory_.path()) > 2 * kBodyBytes &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_LT(bytes_in(directory_.path()), 2 * kBodyBytes);
}

// One in ten stays, and with it, at first, the blob files that it shares with the others.
TEST_F(BodiesTest, DiskSpaceComesBackFromAmongBodiesThatStay) {
  constexpr size_t kBodyBytes = 1u << 20;
  std::string bytes = some_bytes(kBodyBytes);
  for (Sequence at = 1; at <= 300; ++at) {
    Batch batch;
    BodyPtr body = put_body(*store_, batch, bytes, kChunkBytes);
    batch.appends.push_back({at % 10 == 0 ? 2u : 1u, at, record_with(body)});
    commit_or_fail(*store_, std::move(batch));
  }
  commit_or_fail(*store_, advance(1, 301));
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  auto small = [this] { return bytes_in(directory_.path()) < 100 * kBodyBytes; };
  while (!small() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(small()) << bytes_in(directory_.path());
  auto stay = all_of(*store_, 2);
  EXPECT_EQ(stay.size(), 30u);
  for (const auto& message : stay) {
    EXPECT_TRUE(read_body(*store_, *message.record->external()) == bytes);
  }
}

}  // namespace
}  // namespace sluice::storage
