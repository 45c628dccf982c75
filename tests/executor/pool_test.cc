// The pools' promises, by sandboxes that are not real and a clock that stands still.

#include <atomic>
#include <thread>

#include "tests/executor/pool_harness.h"

namespace sluice::executor {
namespace {

TEST_F(PoolTest, ACallIsAnsweredByASandboxOfItsFunction) {
  start(4, 4);
  auto one = image(), other = image();
  load(1, one);
  load(2, other);
  EXPECT_EQ(call(10, 1, "to one").output, "to one");
  EXPECT_EQ(one->made, 1);
  EXPECT_EQ(other->made, 0);
  EXPECT_EQ(call(11, 2, "to the other").output, "to the other");
  EXPECT_EQ(one->made, 1);
  EXPECT_EQ(other->made, 1);
}

TEST_F(PoolTest, TheSandboxUsedLastIsUsedNext) {
  start(4, 4);
  Gate& gate = gates_.emplace_back();
  auto made = load_gated(1, gate);
  invoke_many(0, 3, 1);
  gate.await(3);
  gate.open(2);
  until([&] { return stats(1).running == 1; });
  gate.open(1);
  pools_->wait_idle();
  std::string last;
  {
    std::lock_guard lock(mutex_);
    last = answers_[order_.back()].front().output;
  }
  gate.open(20);
  for (uint64_t id = 10; id < 20; id++) EXPECT_EQ(call(id, 1).output, last);
  EXPECT_EQ(made->made, 3);
}

TEST_F(PoolTest, ItGrowsAtOnceWhileCallsWaitUpToTheShare) {
  start(8, 4);
  Gate& gate = gates_.emplace_back();
  auto made = load_gated(1, gate);
  invoke_many(0, 10, 1);
  gate.await(4);
  EXPECT_EQ(stats(1).sandboxes, 4u);
  EXPECT_EQ(stats(1).running, 4u);
  EXPECT_EQ(stats(1).queued, 6u);
  gate.open(10);
  pools_->wait_idle();
  EXPECT_EQ(answered(), 10u);
  EXPECT_EQ(made->made, 4);
}

TEST_F(PoolTest, ConcurrencyIsALimit) {
  for (size_t concurrency : {1, 2, 3}) {
    start(8, 2);
    Gate& gate = gates_.emplace_back();
    auto made = load_gated(1, gate, "", concurrency);
    invoke_many(100 * concurrency, 6, 1);
    int most = static_cast<int>(std::min<size_t>(concurrency, 2));
    gate.await(most);
    EXPECT_EQ(stats(1).running, static_cast<size_t>(most));
    gate.open(6);
    pools_->wait_idle();
    EXPECT_EQ(made->alive_max, most);
  }
}

TEST_F(PoolTest, CallsThatNeverEndHoldUpTheirOwnFunctionOnly) {
  start(4, 2);
  Gate& gate = gates_.emplace_back();
  load_gated(1, gate);
  load(2, image());
  invoke_many(0, 50, 1);
  gate.await(2);
  for (uint64_t id = 100; id < 110; id++) {
    invoke(id, 2, "fine");
    EXPECT_EQ(answer(id).output, "fine");
  }
  EXPECT_EQ(stats(1).running, 2u);
  gate.open(50);
}

TEST_F(PoolTest, FunctionsTakeTurnsWhereSlotsAreFew) {
  start(1, 1);
  Gate& gate = gates_.emplace_back();
  load_gated(1, gate);
  load_gated(2, gate);
  invoke_many(10, 3, 1);
  gate.await(1);
  invoke_many(20, 3, 2);
  until([&] { return stats(2).sandboxes == 1; });
  gate.open(6);
  pools_->wait_idle();
  EXPECT_EQ(order_, (std::vector<uint64_t>{10, 20, 11, 21, 12, 22}));
}

TEST_F(PoolTest, TheRateAndTheServiceTimeMakeItGrowAhead) {
  start(16, 8);
  auto made = image();
  made->behaviour = [this](FakeImage::Sandbox&, const std::string&) {
    clock_.advance_ms(10);
    return CallResult{};
  };
  load(1, made);
  // 100 calls a second of 10 ms, one after the other: one at a time, and two for the peaks.
  for (uint64_t id = 0; id < 300; id++) {
    call(id, 1);
    if (id % 10 == 9) tick_after_ms(0);
  }
  EXPECT_EQ(stats(1).target, 3u);
  EXPECT_EQ(stats(1).sandboxes, 3u);
}

TEST_F(PoolTest, AheadOfDemandIsNoMoreThanMayRun) {
  start(4, 2);
  auto made = image();
  made->behaviour = [this](FakeImage::Sandbox&, const std::string&) {
    clock_.advance_ms(1000);
    return CallResult{};
  };
  load(1, made);
  for (uint64_t id = 0; id < 30; id++) call(id, 1), tick_after_ms(0);
  EXPECT_EQ(stats(1).target, 2u);
  EXPECT_EQ(made->alive, 2);
}

TEST_F(PoolTest, WhatTheDemandDoesNotAskForGoesAndTheLastGoesWhenIdle) {
  start(8, 8);
  Gate& gate = gates_.emplace_back();
  auto made = load_gated(1, gate);
  invoke_many(0, 8, 1);
  gate.await(8);
  gate.open(8);
  pools_->wait_idle();
  EXPECT_EQ(made->alive, 8);
  // Not before it has been without use for a while.
  tick_after_ms(kSpareSeconds * 1000 - 1);
  EXPECT_EQ(made->alive, 8);
  tick_after_ms(1);
  EXPECT_EQ(stats(1).target, 1u);
  EXPECT_EQ(made->alive, 1);
  tick_after_ms((kIdleSeconds - kSpareSeconds) * 1000 - 1);
  EXPECT_EQ(made->alive, 1);
  tick_after_ms(1);
  EXPECT_EQ(made->alive, 0);
  EXPECT_EQ(stats(1).target, 0u);
  EXPECT_EQ(pools_->stats().memory_bytes, 0u);
  gate.open(1);
  call(100, 1);
  EXPECT_EQ(made->alive, 1);
}

TEST_F(PoolTest, ACrashedSandboxIsReplacedAndCounted) {
  start(4, 4);
  auto made = image();
  made->behaviour = [](FakeImage::Sandbox& sandbox, const std::string& input) {
    CallResult result = text_result(std::to_string(sandbox.number));
    if (input == "crash") {
      sandbox.broken = true;
      result.ending = {Outcome::kException, 0, "it crashed"};
    }
    return result;
  };
  load(1, made);
  EXPECT_EQ(call(1, 1).output, "1");
  EXPECT_EQ(call(2, 1, "crash").ending.outcome, Outcome::kException);
  EXPECT_EQ(made->alive, 1) << "not replaced before the next call";
  EXPECT_EQ(call(3, 1).output, "2");
  EXPECT_EQ(stats(1).discarded, 1u);
  EXPECT_EQ(stats(1).resets, 2u);
  EXPECT_EQ(stats(1).clones, 2u);
}

TEST_F(PoolTest, WhereNoSandboxCanBeMadeEachCallHasOneTry) {
  start(4, 4);
  auto made = image();
  made->refuse = 1000;
  load(1, made);
  for (uint64_t id = 0; id < 5; id++) invoke(id, 1);
  for (uint64_t id = 0; id < 5; id++) {
    EXPECT_EQ(answer(id).ending.outcome, Outcome::kUnavailable);
    EXPECT_EQ(answer(id).ending.message, "no more sandboxes");
  }
  pools_->wait_idle();
  EXPECT_EQ(stats(1).calls, 5u);
  made->refuse = 0;
  EXPECT_EQ(call(10, 1, "again").output, "again");
}

TEST_F(PoolTest, WhereThereIsOneCallsWaitForItWhenNoMoreCanBeMade) {
  start(4, 4);
  Gate& gate = gates_.emplace_back();
  auto made = load_gated(1, gate);
  invoke(0, 1);
  gate.await(1);
  made->refuse = 1000;
  invoke_many(1, 5, 1);
  until([&] { return made->refuse < 1000; });
  gate.open(6);
  for (uint64_t id = 0; id < 6; id++) EXPECT_EQ(answer(id).ending.outcome, Outcome::kOk);
}

TEST_F(PoolTest, UnloadEndsWhatWasAcceptedAndNothingIsLeft) {
  start(2, 2);
  Gate& gate = gates_.emplace_back();
  auto made = load_gated(1, gate);
  invoke_many(0, 10, 1);
  gate.await(2);
  pools_->unload(1);
  invoke(50, 1);
  EXPECT_EQ(answer(50).ending.outcome, Outcome::kInternal);
  EXPECT_EQ(answer(50).ending.message, "function 1 is not loaded in this executor");
  gate.open(10);
  for (uint64_t id = 0; id < 10; id++) EXPECT_EQ(answer(id).ending.outcome, Outcome::kOk);
  pools_->wait_idle();
  EXPECT_EQ(made->alive, 0);
  EXPECT_EQ(pools_->stats().memory_bytes, 0u);
  EXPECT_TRUE(pools_->stats().functions.empty());
}

TEST_F(PoolTest, ALoadOfTheSameNumberTakesItsPlace) {
  start(4, 2);
  Gate& gate = gates_.emplace_back();
  auto old = load_gated(1, gate);
  invoke_many(0, 5, 1);
  gate.await(2);
  auto made = image();
  load(1, made);
  invoke(100, 1, "to the new");
  EXPECT_EQ(answer(100).output, "to the new");
  gate.open(5);
  for (uint64_t id = 0; id < 5; id++) EXPECT_NE(answer(id).output, "");
  pools_->wait_idle();
  EXPECT_EQ(old->alive, 0);
  EXPECT_EQ(made->alive, 1);
  EXPECT_EQ(stats(1).calls, 1u) << "counts since it was loaded";
}

TEST_F(PoolTest, CallsWaitForTheirLoadWhateverBecomesOfIt) {
  start(4, 2);
  Function* loads = pools_->add(1, "", 0);
  Function* fails = pools_->add(2, "", 0);
  Function* goes = pools_->add(3, "", 0);
  for (uint64_t f = 1; f <= 3; f++) invoke(10 * f, f, "x");
  EXPECT_EQ(stats(1).queued, 1u);
  pools_->unload(3);
  pools_->loaded(loads, image());
  pools_->failed(fails, Outcome::kBadImage, "bad");
  EXPECT_EQ(answer(10).output, "x");
  EXPECT_EQ(answer(20).ending.outcome, Outcome::kBadImage);
  EXPECT_EQ(answer(20).ending.message, "bad");
  invoke(21, 2);
  EXPECT_EQ(answer(21).ending.outcome, Outcome::kBadImage);
  EXPECT_EQ(answered(), 3u);
  pools_->loaded(goes, image());
  EXPECT_EQ(answer(30).output, "x") << "it was accepted before the unload";
}

TEST_F(PoolTest, ASleepingCallGivesItsSlotToAnother) {
  start(1, 1);
  Gate& asleep = gates_.emplace_back();
  Gate& busy = gates_.emplace_back();
  auto sleeper = image();
  sleeper->behaviour = [&](FakeImage::Sandbox& sandbox, const std::string&) {
    sandbox.slot->release();
    asleep.pass();
    sandbox.slot->acquire(INT64_MAX / 2);
    return CallResult{};
  };
  load(1, sleeper);
  load_gated(2, busy);
  invoke_many(0, 3, 1);  // all of them asleep, on one slot
  asleep.await(3);
  EXPECT_EQ(stats(1).running, 3u);
  invoke(10, 2);
  busy.await(1);
  asleep.open(3);
  // None goes on while the other has the slot.
  until([&] { return asleep.waiting() == 0; });
  invoke(11, 2);
  EXPECT_EQ(answered(), 0u);
  busy.open(2);
  pools_->wait_idle();
  EXPECT_EQ(answered(), 5u);
}

TEST_F(PoolTest, ASleeperDoesNotWaitForASlotBeyondItsDeadline) {
  start(1, 1);
  Gate& busy = gates_.emplace_back();
  Gate& asleep = gates_.emplace_back();
  auto sleeper = image();
  sleeper->behaviour = [&](FakeImage::Sandbox& sandbox, const std::string&) {
    sandbox.slot->release();
    asleep.pass();
    sandbox.slot->acquire(SteadyClock().now_ns() + 20'000'000);
    return CallResult{};
  };
  load(1, sleeper);
  load_gated(2, busy);
  invoke(1, 1);
  asleep.await(1);
  invoke(2, 2);
  busy.await(1);
  asleep.open(1);
  answer(1);  // while the other still has the only slot
  EXPECT_EQ(stats(2).running, 1u);
  busy.open(1);
}

TEST_F(PoolTest, SleepersCountForTheConcurrency) {
  start(8, 4);
  Gate& asleep = gates_.emplace_back();
  auto sleeper = image();
  sleeper->behaviour = [&](FakeImage::Sandbox& sandbox, const std::string&) {
    sandbox.slot->release();
    asleep.pass();
    sandbox.slot->acquire(INT64_MAX / 2);
    return CallResult{};
  };
  load(1, sleeper, "", 6);
  invoke_many(0, 10, 1);
  asleep.await(6);
  EXPECT_EQ(stats(1).queued, 4u);
  asleep.open(10);
  pools_->wait_idle();
  EXPECT_EQ(sleeper->alive_max, 6);
}

TEST_F(PoolTest, WhoSleepsMuchIsGivenMoreSandboxesThanMayRun) {
  start(4, 2);
  auto sleeper = image();
  sleeper->behaviour = [&](FakeImage::Sandbox& sandbox, const std::string&) {
    sandbox.slot->release();
    clock_.advance_ms(100);
    sandbox.slot->acquire(INT64_MAX / 2);
    return CallResult{};
  };
  load(1, sleeper);
  for (uint64_t id = 0; id < 100; id++) call(id, 1), tick_after_ms(0);
  EXPECT_EQ(stats(1).target, 3u);  // one asleep on average, and its peaks
  EXPECT_EQ(sleeper->alive, 3);
}

TEST_F(PoolTest, CountsAreExact) {
  start(4, 2);
  Gate& gate = gates_.emplace_back();
  auto made = image();
  made->behaviour = [&](FakeImage::Sandbox& sandbox, const std::string& input) {
    if (input == "wait") gate.pass();
    sandbox.broken = input == "crash";
    CallResult result;
    result.run_us = 7;
    result.exits = 2;
    result.dirty_pages = 5;
    return result;
  };
  load(1, made);
  call(1, 1);                                                  // cold
  call(2, 1);                                                  // warm
  for (uint64_t id = 3; id <= 5; id++) invoke(id, 1, "wait");  // warm, cold, and one that waits
  gate.await(2);
  FunctionStats now = stats(1);
  EXPECT_EQ(now.calls, 2u);
  EXPECT_EQ(now.sandboxes, 2u);
  EXPECT_EQ(now.running, 2u);
  EXPECT_EQ(now.queued, 1u);
  EXPECT_EQ(now.memory_bytes, 2 * kMiB);
  gate.open(3);
  pools_->wait_idle();
  call(6, 1, "crash");  // warm
  now = stats(1);
  EXPECT_EQ(now.calls, 6u);
  EXPECT_EQ(now.warm_hits, 3u);
  EXPECT_EQ(now.cold_starts, 2u);
  EXPECT_EQ(now.clones, static_cast<uint64_t>(made->made));
  EXPECT_EQ(now.resets, 5u);
  EXPECT_EQ(now.discarded, 1u);
  EXPECT_EQ(now.run_us, 6u * 7);
  EXPECT_EQ(now.exits, 6u * 2);
  EXPECT_EQ(now.dirty_pages, 6u * 5);
  EXPECT_EQ(now.sandboxes, static_cast<uint32_t>(made->alive));
  EXPECT_EQ(now.running, 0u);
  EXPECT_EQ(now.queued, 0u);
}

// One sandbox is found by one call, however long that then waits for a slot.
TEST_F(PoolTest, AnIdleSandboxIsAWarmHitForOneCall) {
  start(1, 1);
  Gate& gate = gates_.emplace_back();
  load(1, image());
  load_gated(2, gate);
  call(1, 1);
  invoke(2, 2);
  gate.await(1);
  for (uint64_t id = 3; id <= 5; id++) invoke(id, 1);
  gate.open(1);
  pools_->wait_idle();
  EXPECT_EQ(stats(1).warm_hits, 1u);
  EXPECT_EQ(stats(1).cold_starts, 1u);
  EXPECT_EQ(stats(1).calls, 4u);
}

TEST_F(PoolTest, StatisticsAreSentOnceASecondWhileAnythingChanges) {
  start(4, 2);
  load(1, image());
  tick_after_ms(kStatsMs);
  ASSERT_EQ(sent_stats_.size(), 1u);
  call(1, 1);
  tick_after_ms(kStatsMs - 1);
  EXPECT_EQ(sent_stats_.size(), 1u);
  tick_after_ms(1);
  ASSERT_EQ(sent_stats_.size(), 2u);
  EXPECT_EQ(sent_stats_[1].functions.at(0).calls, 1u);
  EXPECT_EQ(sent_stats_[1].memory_bytes, kMiB);
  EXPECT_EQ(sent_stats_[1].memory_budget_bytes, 1000 * kMiB);
  tick_after_ms(kStatsMs);
  tick_after_ms(kStatsMs);
  EXPECT_EQ(sent_stats_.size(), 2u);
}

TEST_F(PoolTest, ThePacerTicksByItself) {
  start(4, 2, 1000 * kMiB, true);
  load(1, image());
  call(1, 1);
  std::unique_lock lock(mutex_);
  answered_.wait(
      lock, [&] { return !sent_stats_.empty() && sent_stats_.back().functions.at(0).calls == 1; });
}

TEST_F(PoolTest, NoMoreIsQueuedThanMayBe) {
  Pools::Options options;
  options.slots = options.share = 1;
  options.memory_budget_bytes = 100 * kMiB;
  options.queued_calls_max = 3;
  options.queued_bytes_max = 10;
  options.clock = &clock_;
  options.paced = false;
  start(std::move(options));
  Gate& gate = gates_.emplace_back();
  load_gated(1, gate);
  invoke(0, 1);
  gate.await(1);
  invoke_many(1, 3, 1);
  std::atomic<bool> accepted = false;
  std::thread blocked([&] { invoke(4, 1), accepted = true; });
  // That nothing happens is what is looked for.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(accepted);
  EXPECT_EQ(stats(1).queued, 3u);
  gate.open(1);
  blocked.join();
  gate.open(4);
  pools_->wait_idle();
  EXPECT_EQ(answered(), 5u);

  invoke(10, 1);
  gate.await(1);
  invoke(11, 1, std::string(9, 'x'));
  invoke(12, 1, std::string(1, 'x'));  // 10 bytes now
  accepted = false;
  std::thread held([&] { invoke(13, 1), accepted = true; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(accepted);
  gate.open(4);
  held.join();
  pools_->wait_idle();
  EXPECT_EQ(answered(), 9u);
}

}  // namespace
}  // namespace sluice::executor
