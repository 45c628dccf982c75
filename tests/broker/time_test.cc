// Queues whose messages, ids and selves have to do with time. The clock is the test's; nothing
// here waits.

#include <random>

#include <gtest/gtest.h>
#include <unistd.h>

#include "broker/queue/limits.h"
#include "broker/queue/queue.h"
#include "storage/rocksdb/rocksdb_store.h"
#include "tests/broker/fake_clock.h"
#include "tests/broker/fake_store.h"
#include "tests/storage/support.h"

namespace sluice::broker {
namespace {

std::string body(const Entry& entry) { return std::string(amqp::as_text(entry.record->body())); }

constexpr uint8_t kPersistent[] = {0x10, 0x00, 0x02};  // delivery-mode 2

struct Loop : uv_loop_t {
  Loop() { uv_loop_init(this); }
  ~Loop() {
    uv_run(this, UV_RUN_DEFAULT);
    EXPECT_EQ(uv_loop_close(this), 0);
  }
};

class Taker : public Consumer {
 public:
  bool can_take() const override { return credit > 0; }
  void take(Queue& queue, Entry entry) override {
    --credit;
    got += body(entry);
    queue.settle(entry);
  }
  void queue_deleted(Queue&) override {}
  int credit = 1000;
  std::string got;
};

// A queue on a store in RAM.
class TimeTest : public testing::Test {
 protected:
  ~TimeTest() override {
    queue_.reset();
    journal_.reset();
  }

  std::shared_ptr<Queue> make() {
    return std::make_shared<Queue>(*journal_, resident_, 7, settings_);
  }
  void start() {
    queue_ = make();
    ASSERT_TRUE(queue_->recover(store_, *store_.queues()));
    watch();
  }
  void watch() {
    queue_->when_dead([this](const std::shared_ptr<Queue>& queue, Entry entry, DeathReason reason) {
      EXPECT_EQ(reason, DeathReason::kExpired);
      expired_ += body(entry);
      queue->settle(entry);
    });
    queue_->when_unused([this] { ++unused_; });
  }
  // What is not committed is lost.
  void crash() {
    queue_.reset();
    journal_.reset();
    store_.waiting.clear();
    uv_run(&loop_, UV_RUN_NOWAIT);
    journal_ = std::make_unique<Journal>(
        store_, &loop_, [this](const Error& error) { failure_ = error; }, clock_);
    start();
  }
  void commit() {
    journal_->when_durable([] {});
    journal_->turn_end();
    while (!store_.waiting.empty()) {
      store_.finish();
      uv_run(&loop_, UV_RUN_NOWAIT);
      journal_->turn_end();
    }
  }
  void restart() {
    commit();
    crash();
  }
  // Time passes; alarms come, and what they made to read.
  void pass(int64_t ms) {
    clock_.pass(ms);
    settle_down();
  }
  void settle_down() {
    for (int i = 0; i < 20; ++i) {
      journal_->alarms().check();
      uv_run(&loop_, UV_RUN_NOWAIT);
      while (loop_.active_reqs.count > 0) uv_run(&loop_, UV_RUN_ONCE);  // reads
    }
  }

  storage::RecordPtr record(const std::string& text, int64_t delay_ms,
                            std::optional<int64_t> ttl_ms) {
    int64_t ready_ms = clock_.wall + delay_ms;
    return storage::Record::make({.exchange = "",
                                  .routing_key = "q",
                                  .properties = kPersistent,
                                  .body = amqp::as_bytes(text),
                                  .published_at_ms = clock_.wall,
                                  .external = {},
                                  .ready_at_ms = delay_ms != 0 ? ready_ms : 0,
                                  .expires_at_ms = ttl_ms ? ready_ms + *ttl_ms : 0});
  }
  bool publish(const std::string& text, int64_t delay_ms = 0, std::optional<int64_t> ttl_ms = {}) {
    return queue_->publish(record(text, delay_ms, ttl_ms), {.persistent = true}) ==
           Accepted::kStored;
  }
  std::string drain() {
    std::string all;
    while (auto entry = queue_->take()) {
      all += body(*entry);
      queue_->settle(*entry);
    }
    return all;
  }

  FakeClock clock_;
  Loop loop_;
  FakeStore store_;
  QueueSettings settings_{.name = "q", .durable = true};
  std::optional<Error> failure_;
  ResidentSet resident_{size_t{1} << 30};
  ResidentSet pressed_{0};  // no memory at all: the windows are as small as can be
  std::unique_ptr<Journal> journal_ = std::make_unique<Journal>(
      store_, &loop_, [this](const Error& error) { failure_ = error; }, clock_);
  std::shared_ptr<Queue> queue_ = make();
  std::string expired_;
  int unused_ = 0;
};

TEST_F(TimeTest, ADelayedMessageIsReadyWhenItIsDueAndNotBefore) {
  EXPECT_TRUE(publish("a", 100));
  EXPECT_EQ(queue_->ready_count(), 0u);
  EXPECT_EQ(queue_->delayed_count(), 1u);
  pass(99);
  EXPECT_FALSE(queue_->take());
  pass(1);
  EXPECT_EQ(queue_->delayed_count(), 0u);
  EXPECT_EQ(drain(), "a");
}

TEST_F(TimeTest, DelayedMessagesComeByTheirTimeThenInTheOrderOfPublishing) {
  publish("d", 200);
  publish("a", 100);
  publish("b", 100);
  publish("0");
  publish("c", 100);
  EXPECT_EQ(drain(), "0");
  pass(300);
  EXPECT_EQ(drain(), "abcd");
}

TEST_F(TimeTest, AConsumerIsGivenADelayedMessageByTheAlarm) {
  Taker taker;
  queue_->add_consumer(&taker, false);
  publish("a", 50);
  EXPECT_EQ(taker.got, "");
  pass(50);
  EXPECT_EQ(taker.got, "a");
}

TEST_F(TimeTest, DelaysAreExactAfterARestart) {
  publish("b", 200);
  publish("a", 100);
  restart();
  EXPECT_EQ(queue_->delayed_count(), 2u);
  pass(99);
  EXPECT_FALSE(queue_->take());
  pass(1);
  EXPECT_EQ(drain(), "a");
  commit();
  clock_.pass(1000);  // while it is down
  crash();
  settle_down();
  EXPECT_EQ(drain(), "b");
}

TEST_F(TimeTest, AMoveIsOneBatchAndACrashNeitherLosesNorDoublesIt) {
  publish("a", 100);
  commit();
  clock_.pass(100);
  journal_->alarms().check();
  EXPECT_EQ(queue_->ready_count(), 1u);
  crash();  // before the move was committed
  EXPECT_EQ(queue_->ready_count(), 0u);
  EXPECT_EQ(queue_->delayed_count(), 1u);
  settle_down();
  EXPECT_EQ(queue_->ready_count(), 1u);
  journal_->when_durable([] {});
  journal_->turn_end();
  ASSERT_EQ(store_.waiting.size(), 1u);
  const storage::Batch& batch = *store_.waiting.front().batch;
  EXPECT_EQ(batch.appends.size(), 1u);
  EXPECT_EQ(batch.unschedules.size(), 1u);
  commit();
  crash();
  EXPECT_EQ(queue_->ready_count(), 1u);
  EXPECT_EQ(queue_->delayed_count(), 0u);
  EXPECT_TRUE(store_.scheduled.empty());
}

TEST_F(TimeTest, DueBeforeItsBatchIsWrittenItIsNeverWrittenAsDelayed) {
  publish("a", 1);
  clock_.pass(1);
  journal_->alarms().check();
  commit();
  EXPECT_TRUE(store_.scheduled.empty());
  EXPECT_EQ(store_.messages.size(), 1u);
}

TEST_F(TimeTest, PurgeLeavesWhatIsDelayedAndRemovingTheQueueTakesIt) {
  publish("a");
  publish("b", 100);
  commit();
  EXPECT_EQ(queue_->purge(), 1u);
  EXPECT_EQ(queue_->delayed_count(), 1u);
  queue_->remove();
  commit();
  EXPECT_TRUE(store_.scheduled.empty());
  pass(100);
  EXPECT_FALSE(failure_);
}

TEST_F(TimeTest, AClockThatJumpsBackDelaysAndLosesNothing) {
  publish("b", 1000);
  commit();
  pass(1000);
  EXPECT_EQ(drain(), "b");
  publish("c", 1000);
  clock_.wall -= 3'600'000;
  publish("a", 1000);  // due long before what was consumed
  restart();
  pass(1000);
  EXPECT_EQ(drain(), "a");
  pass(3'600'000);
  EXPECT_EQ(drain(), "c");
}

TEST_F(TimeTest, AClockThatJumpsForwardIsNoticed) {
  publish("a", 3'600'000);
  clock_.wall += 3'600'000;
  // The timer comes by then at the latest, by itself.
  journal_->alarms().check();
  EXPECT_EQ(drain(), "a");
}

// The newest is always the last to be due, and never committed yet.
TEST_F(TimeTest, TheSameDelayForAllIsBoundedInRamToo) {
  for (int i = 0; i < 20'000; ++i) {
    clock_.pass(1);
    publish(std::to_string(i), 3'600'000);
    if (i % 100 == 99) commit();
    ASSERT_LE(queue_->delayed_resident_count(), kScheduleCountMax + 201) << i;
  }
}

TEST_F(TimeTest, DelayedMessagesOfAQueueThatIsNotDurableGoWithIt) {
  settings_.durable = false;
  queue_ = make();
  EXPECT_FALSE(publish("a", 100));
  commit();
  EXPECT_EQ(store_.scheduled.size(), 1u);
  queue_->remove();
  commit();
  EXPECT_TRUE(store_.scheduled.empty());
}

TEST_F(TimeTest, MissingDelayedMessagesAreNoticed) {
  publish("a", 100);
  publish("b", 200);
  commit();
  store_.scheduled.erase(store_.scheduled.begin());
  crash();
  settle_down();
  pass(200);
  ASSERT_TRUE(failure_);
  EXPECT_EQ(failure_->code, Code::kCorrupt);
}

TEST_F(TimeTest, AMessageIsNotHandedOutFromItsTimeOn) {
  settings_.message_ttl_ms = 100;
  start();
  publish("a");
  publish("b");
  clock_.pass(99);
  auto a = queue_->take();
  ASSERT_TRUE(a);
  clock_.pass(1);
  EXPECT_FALSE(queue_->take());
  EXPECT_EQ(expired_, "b");
  queue_->requeue(*a);  // keeps its time
  EXPECT_EQ(expired_, "ba");
  EXPECT_EQ(queue_->expired_count(), 2u);
  commit();
  EXPECT_TRUE(store_.messages.empty());
}

TEST_F(TimeTest, TheFirstMessageExpiresWithoutAnybodyAsking) {
  start();
  publish("a", 0, 50);
  publish("b", 0, 70);
  publish("c");
  pass(50);
  EXPECT_EQ(expired_, "a");
  pass(20);
  EXPECT_EQ(expired_, "ab");
  EXPECT_EQ(queue_->ready_count(), 1u);
  EXPECT_EQ(drain(), "c");
}

TEST_F(TimeTest, TheShorterTimeCounts) {
  settings_.message_ttl_ms = 100;
  start();
  publish("a", 0, 30);
  publish("b", 0, 500);
  pass(30);
  EXPECT_EQ(expired_, "a");
  pass(69);
  EXPECT_EQ(expired_, "a");
  pass(1);
  EXPECT_EQ(expired_, "ab");
}

TEST_F(TimeTest, BehindOneThatStaysItLeavesWhenItIsFirst) {
  start();
  publish("a");
  publish("b", 0, 10);
  pass(10);
  EXPECT_EQ(queue_->ready_count(), 2u);
  auto a = queue_->take();
  EXPECT_EQ(body(*a), "a");
  EXPECT_EQ(expired_, "b");  // at once: the take made it the first
}

TEST_F(TimeTest, NoTimeToLiveMeansToWhoeverIsWaiting) {
  start();
  publish("a", 0, 0);
  EXPECT_EQ(expired_, "a");
  Taker taker;
  queue_->add_consumer(&taker, false);
  publish("b", 0, 0);
  EXPECT_EQ(taker.got, "b");
  EXPECT_EQ(expired_, "a");
}

TEST_F(TimeTest, TimesToLiveAreExactAfterARestart) {
  start();
  publish("a", 0, 100);
  publish("b");
  restart();
  pass(99);
  EXPECT_EQ(expired_, "");
  pass(1);  // nobody asks
  EXPECT_EQ(expired_, "a");
  publish("c", 100, 100);  // lives from when it is due
  restart();
  EXPECT_EQ(drain(), "b");
  pass(199);
  EXPECT_EQ(queue_->ready_count(), 1u);
  pass(1);
  EXPECT_EQ(expired_, "ac");
}

TEST_F(TimeTest, ExpiredMessagesOnDiskLeaveWithoutFillingRam) {
  settings_.message_ttl_ms = 1000;
  queue_ = std::make_shared<Queue>(*journal_, pressed_, 7, settings_);
  watch();
  for (int i = 0; i < 5000; ++i) {
    publish("x" + std::string(200, 'x'));
    if (i % 100 == 99) commit();
  }
  pressed_.turn_end();
  size_t before = storage::Record::resident_bytes();
  clock_.pass(1000);
  for (int i = 0; i < 1000 && queue_->ready_count() > 0; ++i) {
    settle_down();
    commit();
  }
  EXPECT_EQ(queue_->ready_count(), 0u);
  EXPECT_EQ(queue_->expired_count(), 5000u);
  EXPECT_LE(storage::Record::resident_bytes(), before);
  EXPECT_TRUE(store_.messages.empty());
}

TEST_F(TimeTest, AQueueThatNobodyUsesSaysSo) {
  settings_.unused_ttl_ms = 100;
  start();
  pass(99);
  queue_->take();
  pass(99);
  queue_->used();
  Taker taker;
  queue_->add_consumer(&taker, false);
  pass(1000);
  EXPECT_EQ(unused_, 0);
  queue_->remove_consumer(&taker);
  clock_.wall += 3'600'000;  // is no use of time
  pass(99);
  restart();  // begins anew
  pass(99);
  EXPECT_EQ(unused_, 0);
  pass(1);
  EXPECT_EQ(unused_, 1);
}

TEST_F(TimeTest, AQueueMayBeRemovedByItsOwnCallbacks) {
  settings_.unused_ttl_ms = 100;
  start();
  queue_->when_unused([this] {
    queue_->remove();
    queue_.reset();
  });
  pass(100);
  EXPECT_EQ(queue_, nullptr);
  settings_.unused_ttl_ms.reset();
  start();
  queue_->when_dead(
      [](const std::shared_ptr<Queue>& queue, Entry, DeathReason) { queue->remove(); });
  publish("a", 0, 100);
  publish("b", 0, 100);
  pass(100);
  EXPECT_TRUE(queue_->removed());
}

class DedupTest : public TimeTest {
 protected:
  bool fresh(const std::string& id) {
    uint64_t before = queue_->duplicate_count();
    EXPECT_EQ(queue_->publish(record("m", 0, {}), {.persistent = true}, id), Accepted::kStored);
    return queue_->duplicate_count() == before;
  }
};

TEST_F(DedupTest, AnIdIsNewOnceWithinItsWindow) {
  settings_.dedup = DedupSettings{.window_ms = 1000, .count_max = {}};
  start();
  EXPECT_TRUE(fresh("a"));
  EXPECT_FALSE(fresh("a"));
  commit();
  EXPECT_FALSE(fresh("a"));
  EXPECT_TRUE(fresh("b"));
  EXPECT_EQ(queue_->ready_count(), 2u);
  pass(999);
  EXPECT_FALSE(fresh("a"));
  pass(1);
  EXPECT_TRUE(fresh("a"));
  EXPECT_FALSE(fresh("a"));
  EXPECT_TRUE(fresh(""));  // no id
  EXPECT_TRUE(fresh(""));
}

TEST_F(DedupTest, AnIdCommitsWithItsMessage) {
  settings_.dedup = DedupSettings{.window_ms = 1000, .count_max = {}};
  start();
  EXPECT_TRUE(fresh("a"));
  commit();
  EXPECT_TRUE(fresh("b"));
  crash();
  EXPECT_FALSE(fresh("a"));
  EXPECT_TRUE(fresh("b"));
  EXPECT_EQ(queue_->ready_count(), 2u);
}

TEST_F(DedupTest, AWindowOfACountHoldsTheLastOnes) {
  settings_.dedup = DedupSettings{.window_ms = {}, .count_max = 10};
  start();
  for (int i = 0; i < 25; ++i) EXPECT_TRUE(fresh(std::to_string(i)));
  restart();
  for (int i = 15; i < 25; ++i) EXPECT_FALSE(fresh(std::to_string(i)));
  EXPECT_TRUE(fresh("14"));
  EXPECT_TRUE(fresh("15"));
}

TEST_F(DedupTest, AClockThatJumpsBackForgetsNothingAndBringsNothingBack) {
  settings_.dedup = DedupSettings{.window_ms = 1000, .count_max = {}};
  start();
  EXPECT_TRUE(fresh("old"));
  pass(1000);
  EXPECT_TRUE(fresh("new"));
  clock_.wall -= 100'000;
  EXPECT_FALSE(fresh("new"));
  EXPECT_TRUE(fresh("old"));
  restart();
  EXPECT_FALSE(fresh("new"));
  EXPECT_FALSE(fresh("old"));
  clock_.wall += 101'000;
  EXPECT_TRUE(fresh("new"));
}

TEST_F(DedupTest, ARemovedQueueTakesItsIdsAlong) {
  settings_.dedup = DedupSettings{.window_ms = 1000, .count_max = {}};
  settings_.durable = false;
  queue_ = make();
  queue_->publish(record("m", 0, {}), {.persistent = true}, "a");
  commit();
  EXPECT_EQ(store_.ids.size(), 1u);
  queue_->remove();
  commit();
  EXPECT_TRUE(store_.ids.empty());
}

TEST_F(DedupTest, AnswersAreThoseOfASimpleSetInAnyOrderOfEvents) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (bool counted : {false, true}) {
    SCOPED_TRACE(counted);
    settings_.dedup = counted ? DedupSettings{.window_ms = {}, .count_max = 500}
                              : DedupSettings{.window_ms = 700, .count_max = {}};
    store_.ids.clear();
    store_.dedup_positions.clear();
    crash();
    struct Met {
      uint64_t number;
      int64_t at;
    };
    std::map<std::string, Met> met;
    uint64_t number = 0;
    for (int step = 0; step < 20'000; ++step) {
      unsigned dice = random() % 1000;
      if (dice < 900) {
        std::string id = std::to_string(random() % 1500);
        auto found = met.find(id);
        bool known = found != met.end() && (counted ? number - found->second.number <= 500
                                                    : clock_.wall - found->second.at < 700);
        ASSERT_EQ(fresh(id), !known) << id;
        if (!known) met[id] = {number++, clock_.wall};
      } else if (dice < 960) {
        clock_.pass(random() % 20);
      } else if (dice < 998) {
        commit();
      } else {
        restart();
      }
      if (random() % 8 == 0) queue_->purge();
    }
  }
}

// Delays, times to live, crashes and restarts against a list of what was published.
TEST_F(TimeTest, TheQueueDoesWhatASimpleListDoesInAnyOrderOfEvents) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  settings_.message_ttl_ms = 900;
  auto start_pressed = [&] {
    queue_ = std::make_shared<Queue>(*journal_, pressed_, 7, settings_);
    ASSERT_TRUE(queue_->recover(store_, *store_.queues()));
  };
  start_pressed();
  struct Message {
    int64_t due;
    int64_t expires;
  };
  std::map<std::string, Message> all;
  struct State {
    std::map<std::pair<int64_t, int>, Message> delayed;  // by due, number
    std::deque<std::string> ready;  // in order, those that have expired included
  };
  State state;
  auto& [delayed, ready] = state;
  State committed;
  int crash_step = 0;  // until then nothing is committed
  int number = 0;
  size_t taken = 0, restarts = 0, crashes = 0, delayed_max = 0;
  auto move_due = [&] {
    while (!delayed.empty() && delayed.begin()->first.first <= clock_.wall) {
      ready.push_back(std::to_string(delayed.begin()->first.second));
      delayed.erase(delayed.begin());
    }
  };
  for (int step = 0; step < 30'000; ++step) {
    if (step == crash_step) {
      crash();
      start_pressed();
      state = committed;
      settle_down();
      move_due();
      ++crashes;
    }
    unsigned dice = random() % 1000;
    if (dice < 450) {
      int64_t delay = random() % 3 == 0 ? 0 : 1 + random() % (random() % 2 == 0 ? 600'000 : 2000);
      std::optional<int64_t> ttl;
      if (random() % 3 == 0) ttl = 1 + random() % 1500;
      std::string text = std::to_string(number);
      publish(text, delay, ttl);
      int64_t due = clock_.wall + delay;
      Message message{due, due + std::min<int64_t>(ttl.value_or(900), 900)};
      all[text] = message;
      if (delay == 0) {
        ready.push_back(text);
      } else {
        delayed[{due, number}] = message;
      }
      ++number;
    } else if (dice < 600) {
      auto entry = queue_->take();
      while (!ready.empty() && all[ready.front()].expires <= clock_.wall) {
        ready.pop_front();
      }
      ASSERT_EQ(entry.has_value(), !ready.empty());
      if (!entry) continue;
      ASSERT_EQ(body(*entry), ready.front());
      if (random() % 4 == 0) {
        queue_->requeue(*entry);
      } else {
        queue_->settle(*entry);
        ready.pop_front();
      }
      ++taken;
    } else if (dice < 800) {
      clock_.pass(random() % 30);
      settle_down();
      move_due();
    } else if (dice < 990) {
      pressed_.turn_end();
      if (step > crash_step) commit();
    } else if (step > crash_step) {
      commit();
      if (random() % 2 == 0) {
        start_pressed();
        ++restarts;
      } else {
        committed = state;
        crash_step = step + 1 + static_cast<int>(random() % 60);
      }
    }
    delayed_max = std::max(delayed_max, delayed.size());
    ASSERT_FALSE(failure_) << failure_->message;
    ASSERT_EQ(queue_->delayed_count(), delayed.size());
  }
  EXPECT_GT(taken, 1000u);
  EXPECT_GT(restarts, 10u);
  EXPECT_GT(crashes, 10u);
  EXPECT_GT(delayed_max, kScheduleCountMax) << "all of them were in RAM";
}

// The same with the real store.
class StoredTimeTest : public testing::Test {
 protected:
  StoredTimeTest() { open(); }
  ~StoredTimeTest() override { close(); }

  void open() {
    store_ = storage::open_or_fail(directory_.path());
    journal_ = std::make_unique<Journal>(
        *store_, &loop_, [this](const Error& error) { failure_ = error; }, clock_);
    queue_ = std::make_shared<Queue>(*journal_, resident_, 7, settings_);
    ASSERT_TRUE(queue_->recover(*store_, *store_->queues()));
  }
  void close() {
    queue_.reset();
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);  // reads that are under way
    store_.reset();
  }
  void reopen() {
    commit();
    close();
    open();
  }
  void commit() {
    bool durable = false;
    journal_->when_durable([&] { durable = true; });
    while (!durable && !failure_) {
      journal_->turn_end();
      if (!durable) uv_run(&loop_, UV_RUN_ONCE);
    }
    ASSERT_FALSE(failure_) << failure_->message;
  }
  storage::RecordPtr record(const std::string& text, int64_t delay_ms) {
    return storage::Record::make({.exchange = "",
                                  .routing_key = "q",
                                  .properties = kPersistent,
                                  .body = amqp::as_bytes(text),
                                  .published_at_ms = clock_.wall,
                                  .external = {},
                                  .ready_at_ms = delay_ms != 0 ? clock_.wall + delay_ms : 0});
  }

  FakeClock clock_;
  Loop loop_;
  storage::TemporaryDirectory directory_;
  QueueSettings settings_{.name = "q", .durable = true};
  std::optional<Error> failure_;
  ResidentSet resident_{size_t{1} << 30};
  std::unique_ptr<storage::Store> store_;
  std::unique_ptr<Journal> journal_;
  std::shared_ptr<Queue> queue_;
};

TEST_F(StoredTimeTest, AQuarterOfAMillionDelayedMessagesCostNoRamAndComeInOrder) {
  constexpr int kCount = 250'000;
  constexpr int64_t kStepMs = 7;
  size_t before = storage::Record::resident_bytes();
  std::vector<int> order(kCount);
  for (int i = 0; i < kCount; ++i) order[i] = i;
  std::mt19937 random(1);
  std::ranges::shuffle(order, random);
  for (int i = 0; i < kCount; ++i) {
    queue_->publish(record(std::to_string(order[i]), 1 + order[i] * kStepMs), {.persistent = true});
    if (i % 2000 == 1999) commit();
  }
  commit();
  EXPECT_EQ(queue_->delayed_count(), static_cast<size_t>(kCount));
  EXPECT_LE(queue_->delayed_resident_count(), kScheduleCountMax + 2000);  // and the last commit's
  EXPECT_LT(storage::Record::resident_bytes() - before, 2u << 20);
  int next = 0;
  while (next < kCount && !failure_) {
    if (next == 0 || next == kCount / 2) {
      reopen();
      EXPECT_EQ(queue_->delayed_count() + queue_->ready_count(),
                static_cast<size_t>(kCount - next));
    }
    clock_.pass(1000 * kStepMs);
    size_t due = std::min<int64_t>(kCount, next + 1000);
    while (queue_->delayed_count() > kCount - due && !failure_) {
      journal_->alarms().check();
      journal_->turn_end();
      if (queue_->delayed_count() > kCount - due) uv_run(&loop_, UV_RUN_ONCE);
      ASSERT_LT(storage::Record::resident_bytes() - before, 8u << 20);
    }
    while (auto entry = queue_->take()) {
      ASSERT_EQ(body(*entry), std::to_string(next++));
      queue_->settle(*entry);
    }
    commit();
  }
  ASSERT_FALSE(failure_) << failure_->message;
  EXPECT_EQ(next, kCount);
}

TEST_F(StoredTimeTest, AMillionIdsCostNoRamAndAreKnownAfterARestart) {
  settings_.dedup = DedupSettings{.window_ms = 1'000'000, .count_max = {}};
  close();
  open();
  // Fewer where everything takes ten times as long.
  const char* fewer = std::getenv("SLUICE_IDS");
  const int count = fewer != nullptr ? std::atoi(fewer) : 1'000'000;
  constexpr size_t kBatch = 10'000;
  auto window = std::make_unique<DedupWindow>(*journal_, 8, *settings_.dedup);
  size_t resident_max = 0;
  for (int i = 0; i < count; ++i) {
    std::string id = "order-" + std::to_string(i);
    ASSERT_FALSE(window->contains(id)) << i;
    window->add(id);
    resident_max = std::max(resident_max, window->resident_count());
    if (i % kBatch == kBatch - 1) commit();
    clock_.pass(i % 2);
  }
  EXPECT_LE(resident_max, 2 * kBatch);
  commit();
  window.reset();
  reopen();
  window = std::make_unique<DedupWindow>(*journal_, 8, *settings_.dedup);
  auto position = store_->dedup(8);
  ASSERT_TRUE(position);
  EXPECT_LE(position->marks.size(), kDedupMarksMax + 1);
  window->recover(*position);
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    auto number = std::to_string(random() % count);
    ASSERT_TRUE(window->contains("order-" + number));
    ASSERT_FALSE(window->contains("other-" + number));
  }
  clock_.pass(1'000'000);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(window->contains("order-" + std::to_string(random() % count)));
  }
}

}  // namespace
}  // namespace sluice::broker

int main(int argc, char** argv) {
  // A fast disk will do: none of it is about the disk.
  if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
