// The memory budget: who may grow, and who gives.

#include "executor/pool/memory.h"
#include "tests/executor/pool_harness.h"

namespace sluice::executor {
namespace {

const std::string kX = "x", kY = "y";

TEST(ChooseVictim, TheFunctionMostAboveItsShareGives) {
  std::vector<MemoryUse> uses{{&kX, 40, true, 1}, {&kX, 60, true, 9}, {&kX, 10, true, 1}};
  EXPECT_EQ(choose_victim(uses, 100), 1u);
  uses[1].idle = false;
  EXPECT_EQ(choose_victim(uses, 100), 0u);
  for (MemoryUse& use : uses) use.idle = false;
  EXPECT_EQ(choose_victim(uses, 100), std::nullopt);
  EXPECT_EQ(choose_victim({}, 100), std::nullopt);
}

TEST(ChooseVictim, OwnersComeBeforeTheirFunctions) {
  // x has two functions with 30 each, more than y's one with 50 in all.
  std::vector<MemoryUse> uses{{&kX, 30, true, 1}, {&kY, 50, true, 1}, {&kX, 31, true, 1}};
  EXPECT_EQ(choose_victim(uses, 100), 2u);
}

TEST(ChooseVictim, BetweenEqualsTheLeastRecentlyUsedGives) {
  std::vector<MemoryUse> uses{{&kX, 30, true, 7}, {&kX, 30, true, 5}, {&kX, 30, true, 6}};
  EXPECT_EQ(choose_victim(uses, 100), 1u);
}

TEST(ChooseVictim, AGrowerTakesOnlyFromWhoHasMoreThanItWould) {
  std::vector<MemoryUse> uses{{&kX, 61, true, 1}, {&kX, 50, false, 1}};
  EXPECT_EQ(choose_victim(uses, 100, false, 1, 10), 0u);
  EXPECT_EQ(choose_victim(uses, 100, false, 1, 11), std::nullopt);
  EXPECT_EQ(choose_victim(uses, 100, false, 1, 12), std::nullopt);
  uses[0].owner = &kY;
  EXPECT_EQ(choose_victim(uses, 100, false, 1, 10), 0u);
  EXPECT_EQ(choose_victim(uses, 100, false, 1, 11), std::nullopt);
  // Its own owner is above its share by its other function: that one gives, not y.
  uses = {{&kX, 40, false, 1}, {&kX, 60, true, 1}, {&kY, 50, true, 1}};
  EXPECT_EQ(choose_victim(uses, 100, false, 0, 1), 1u);
}

TEST(ChooseVictim, WhoIsNotAboveItsShareMayBeSpared) {
  std::vector<MemoryUse> uses{{&kX, 51, false, 1}, {&kX, 50, true, 1}};
  EXPECT_EQ(choose_victim(uses, 100, true), std::nullopt);
  uses[0].idle = true;
  EXPECT_EQ(choose_victim(uses, 100, true), 0u);
  // A function above its part of an owner's share gives nothing while the owner is not above.
  uses = {{&kX, 40, true, 1}, {&kX, 10, true, 1}, {&kY, 60, false, 1}};
  EXPECT_EQ(choose_victim(uses, 100, true), std::nullopt);
  EXPECT_EQ(choose_victim(uses, 100), 0u);
}

TEST_F(PoolTest, TheBudgetIsNotExceeded) {
  for (uint64_t budget : {10 * kMiB - 1, 10 * kMiB, 10 * kMiB + 1}) {
    start(40, 20, budget);
    Gate& gate = gates_.emplace_back();
    auto made = load_gated(1, gate);
    invoke_many(budget, 20, 1);
    int most = budget < 10 * kMiB ? 9 : 10;
    gate.await(most);
    pools_->tick();
    EXPECT_EQ(stats(1).running, static_cast<size_t>(most));
    EXPECT_LE(pools_->stats().memory_bytes, budget);
    gate.open(20);
    pools_->wait_idle();
    EXPECT_EQ(made->alive_max, most);
  }
}

TEST_F(PoolTest, SnapshotsCountToo) {
  start(40, 20, 10 * kMiB);
  Gate& gate = gates_.emplace_back();
  auto made = image(kMiB, 7 * kMiB);
  made->behaviour = [&](FakeImage::Sandbox&, const std::string&) {
    gate.pass();
    return CallResult{};
  };
  load(1, made);
  EXPECT_EQ(pools_->stats().memory_bytes, 7 * kMiB);
  invoke_many(0, 20, 1);
  gate.await(3);
  pools_->tick();
  EXPECT_EQ(stats(1).running, 3u);
  gate.open(20);
}

TEST_F(PoolTest, FunctionsShareTheBudgetFairly) {
  start(40, 20, 10 * kMiB);
  Gate& first = gates_.emplace_back();
  Gate& second = gates_.emplace_back();
  auto a = load_gated(1, first), b = load_gated(2, second);
  invoke_many(0, 10, 1);
  first.await(10);
  first.open(10);
  pools_->wait_idle();
  EXPECT_EQ(a->alive, 10);
  invoke_many(100, 10, 2);
  second.await(5);
  pools_->tick();
  EXPECT_EQ(stats(2).running, 5u);
  EXPECT_EQ(stats(2).queued, 5u);
  EXPECT_EQ(stats(1).sandboxes, 5u);
  EXPECT_EQ(a->alive + b->alive, 10);
  second.open(10);
  pools_->wait_idle();
  EXPECT_EQ(b->made, 5);
}

// Its sandboxes are never idle when somebody looks; they go at the end of a call all the same.
TEST_F(PoolTest, AFunctionWhoseCallsNeverStopGivesItsShareBack) {
  start(40, 20, 10 * kMiB);
  Gate& first = gates_.emplace_back();
  Gate& second = gates_.emplace_back();
  auto hog = load_gated(1, first), other = load_gated(2, second);
  invoke_many(0, 100, 1);
  first.await(10);
  invoke_many(1000, 10, 2);
  second.await(1);  // it may have one
  for (int busy = 10; busy > 5; busy--) {
    clock_.advance_ms(1);
    first.open(1);
    until([&] { return hog->alive == busy - 1; });
    first.await(busy - 1);
  }
  clock_.advance_ms(1);
  first.open(1);
  second.await(5);
  EXPECT_EQ(stats(2).running, 5u);
  EXPECT_EQ(hog->alive, 5);
  first.await(5);
  EXPECT_GT(stats(1).queued, 80u);
  first.open(100);
  second.open(10);
}

TEST_F(PoolTest, OwnersShareTheBudgetFairly) {
  start(40, 20, 12 * kMiB);
  Gate& xs = gates_.emplace_back();
  Gate& ys = gates_.emplace_back();
  std::vector<std::shared_ptr<FakeImage>> of_x;
  for (uint64_t f = 1; f <= 3; f++) {
    of_x.push_back(load_gated(f, xs, "x"));
    invoke_many(100 * f, 4, f);
    xs.await(4);
    xs.open(4);
    pools_->wait_idle();
  }
  load_gated(4, ys, "y");
  invoke_many(1000, 12, 4);
  ys.await(6);
  pools_->tick();
  EXPECT_EQ(stats(4).running, 6u);
  for (const auto& image : of_x) EXPECT_EQ(image->alive, 2);
  ys.open(12);
}

TEST_F(PoolTest, AFunctionAlwaysMayHaveOne) {
  start(40, 20, 2 * kMiB);
  Gate& gate = gates_.emplace_back();
  auto a = load_gated(1, gate);
  invoke_many(0, 4, 1);
  gate.await(2);
  load(2, image());
  // Nothing idle can go for it.
  invoke(100, 2, "x");
  EXPECT_EQ(answer(100).output, "x");
  EXPECT_EQ(stats(1).running, 2u);
  gate.open(4);
  pools_->wait_idle();
  EXPECT_EQ(answered(), 5u);
  EXPECT_LE(pools_->stats().memory_bytes, 2 * kMiB);
}

TEST_F(PoolTest, MoreFunctionsThanTheBudgetHoldsTakeTurns) {
  start(4, 2, 3 * kMiB);
  std::vector<std::shared_ptr<FakeImage>> images;
  for (uint64_t f = 0; f < 10; f++) {
    images.push_back(image());
    load(f, images.back());
  }
  for (uint64_t id = 0; id < 50; id++) {
    clock_.advance_ms(1);
    EXPECT_EQ(call(id, id % 10, std::to_string(id)).output, std::to_string(id));
    EXPECT_LE(pools_->stats().memory_bytes, 3 * kMiB);
  }
  for (const auto& image : images) EXPECT_EQ(image->made, 5);
  // Those used last are there.
  for (uint64_t f = 0; f < 10; f++) EXPECT_EQ(images[f]->alive, f >= 7 ? 1 : 0);
}

TEST_F(PoolTest, WhatASandboxGrewByIsMadeUpForByIdleOnes) {
  start(4, 4, 10 * kMiB);
  Gate& gate = gates_.emplace_back();
  auto small = load_gated(1, gate);
  invoke_many(0, 4, 1);
  gate.await(4);
  gate.open(4);
  auto large = image();
  large->behaviour = [](FakeImage::Sandbox& sandbox, const std::string&) {
    sandbox.bytes = 8 * kMiB;
    return CallResult{};
  };
  load(2, large);
  pools_->wait_idle();
  call(10, 2);
  EXPECT_EQ(stats(2).memory_bytes + stats(1).memory_bytes, pools_->stats().memory_bytes);
  EXPECT_LE(pools_->stats().memory_bytes, 10 * kMiB);
}

TEST_F(PoolTest, GrowingAheadTakesNothingFromAnybody) {
  start(8, 4, 3 * kMiB);
  Gate& gate = gates_.emplace_back();
  auto other = load_gated(2, gate);
  invoke_many(1000, 2, 2);
  gate.await(2);
  gate.open(2);
  pools_->wait_idle();
  auto made = image();
  made->behaviour = [this](FakeImage::Sandbox&, const std::string&) {
    clock_.advance_ms(10);
    return CallResult{};
  };
  load(1, made);
  for (uint64_t id = 0; id < 100; id++) {
    call(id, 1);
    if (id % 10 == 9) tick_after_ms(0);
  }
  EXPECT_EQ(stats(1).target, 3u);
  EXPECT_EQ(stats(1).sandboxes, 1u);
  EXPECT_EQ(other->alive, 2);
}

}  // namespace
}  // namespace sluice::executor
