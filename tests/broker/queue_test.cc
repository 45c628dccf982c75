#include "broker/queue/queue.h"

#include <random>

#include <gtest/gtest.h>

#include "broker/session/confirms.h"
#include "tests/broker/fake_store.h"
#include "tests/broker/one_shard.h"

namespace sluice::broker {
namespace {

storage::RecordPtr record(const std::string& body) {
  return storage::Record::make({"", "q", {}, amqp::as_bytes(body), 0});
}

std::string body(const Entry& entry) { return std::string(amqp::as_text(entry.record->body())); }

class QueueTest : public testing::Test {
 protected:
  ~QueueTest() override {
    queue_.reset();
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);
    EXPECT_EQ(uv_loop_close(&loop_), 0);
  }

  void publish(const std::string& text, bool persistent = true) {
    queue_->publish(record(text), {.persistent = persistent});
  }
  // The end of a turn in which somebody waits for what was changed.
  void turn_end() {
    journal_->when_durable([] {});
    journal_->turn_end();
  }
  // Ends the commit in flight and lets the shard see it.
  void finish(Expected<> outcome = {}) {
    store_.finish(std::move(outcome));
    uv_run(&loop_, UV_RUN_NOWAIT);
  }
  Expected<> recover(Queue& queue) { return queue.recover(store_, *store_.queues()); }
  std::shared_ptr<Queue> recovered() {
    auto queue = std::make_shared<Queue>(*journal_, resident_, 7,
                                         QueueSettings{.name = "q", .durable = true});
    EXPECT_TRUE(recover(*queue));
    return queue;
  }

  struct Loop : uv_loop_t {
    Loop() { uv_loop_init(this); }
  };
  Loop loop_;
  FakeStore store_;
  std::optional<Error> failure_;
  ResidentSet resident_{size_t{1} << 30};
  ResidentSet pressed_{0};  // no memory at all: the windows are as small as can be
  std::unique_ptr<Journal> journal_ =
      std::make_unique<Journal>(store_, &loop_, [this](const Error& error) { failure_ = error; });
  std::shared_ptr<Queue> queue_ =
      std::make_shared<Queue>(*journal_, resident_, 7, QueueSettings{.name = "q", .durable = true});
};

TEST_F(QueueTest, ReturnedMessagesComeFirstInOrderAndRedelivered) {
  for (const char* text : {"a", "b", "c", "d"}) publish(text);
  Entry a = *queue_->take(), b = *queue_->take(), c = *queue_->take();
  queue_->requeue(c);
  queue_->requeue(a);
  Entry first = *queue_->take(), second = *queue_->take(), third = *queue_->take();
  EXPECT_EQ(body(first) + body(second) + body(third), "acd");
  EXPECT_TRUE(first.redelivered && second.redelivered);
  EXPECT_FALSE(third.redelivered);
  EXPECT_EQ(queue_->unacked_count(), 4u);
  queue_->settle(b);
  EXPECT_EQ(queue_->unacked_count(), 3u);
}

TEST_F(QueueTest, AckedBeforeItsBatchIsWrittenIsNeverWritten) {
  publish("in flight");
  turn_end();
  publish("gathering");
  Entry first = *queue_->take(), second = *queue_->take();
  queue_->settle(second);
  bool durable = false;
  journal_->when_durable([&] { durable = true; });
  finish();
  turn_end();
  EXPECT_TRUE(durable);
  EXPECT_TRUE(store_.waiting.empty());
  EXPECT_EQ(store_.messages.size(), 1u);
  queue_->settle(first);
  turn_end();
  finish();
  EXPECT_TRUE(store_.messages.empty());
}

TEST_F(QueueTest, OneCommitInFlightTheNextGathers) {
  publish("a");
  turn_end();
  publish("b");
  publish("c");
  turn_end();
  EXPECT_EQ(store_.waiting.size(), 1u);
  finish();
  turn_end();
  ASSERT_EQ(store_.waiting.size(), 1u);
  EXPECT_EQ(store_.waiting.front().batch->appends.size(), 2u);
  finish();
}

TEST_F(QueueTest, WhatNobodyWaitsForIsCommittedSoonAllTheSame) {
  publish("a");
  journal_->turn_end();
  EXPECT_TRUE(store_.waiting.empty());
  while (store_.waiting.empty()) {
    uv_run(&loop_, UV_RUN_ONCE);
    journal_->turn_end();
  }
  finish();
  EXPECT_EQ(store_.messages.size(), 1u);
  publish("b");
  journal_->turn_end();
  EXPECT_TRUE(store_.waiting.empty());
  journal_->when_durable([] {});
  journal_->turn_end();
  EXPECT_EQ(store_.waiting.size(), 1u);
  finish();
}

TEST_F(QueueTest, TransientMessagesAreNotWritten) {
  publish("t", false);
  turn_end();
  EXPECT_TRUE(store_.waiting.empty());
  queue_->settle(*queue_->take());
  turn_end();
  EXPECT_TRUE(store_.waiting.empty());
}

TEST_F(QueueTest, FailedCommitReachesTheOwnerAndConfirmsNothing) {
  publish("a");
  bool durable = false;
  journal_->when_durable([&] { durable = true; });
  turn_end();
  finish(fail(Code::kIo, "no space left"));
  EXPECT_TRUE(failure_.has_value());
  EXPECT_FALSE(durable);
}

TEST_F(QueueTest, RemovedQueueTakesItsUnwrittenMessagesAlong) {
  publish("a");
  Entry out = *queue_->take();
  publish("b");
  queue_->remove();
  queue_->settle(out);
  queue_->requeue(out);
  turn_end();
  finish();
  EXPECT_TRUE(store_.messages.empty());
}

TEST_F(QueueTest, PurgeLeavesWhatIsOut) {
  for (const char* text : {"a", "b", "c"}) publish(text);
  Entry a = *queue_->take();
  EXPECT_EQ(queue_->purge(), 2u);
  EXPECT_EQ(queue_->ready_count(), 0u);
  queue_->requeue(a);
  EXPECT_EQ(body(*queue_->take()), "a");
}

// Whatever order things happen in, what is on disk after each commit is what was published and not
// consumed, and a recovered queue has it in order.
TEST_F(QueueTest, DiskFollowsTheQueueInAnyOrderOfEvents) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::map<storage::Sequence, std::string> alive;  // what must be on disk when all is written
  std::vector<Entry> out;
  storage::Sequence next = 1;
  for (int step = 0; step < 20'000; ++step) {
    switch (random() % 6) {
      case 0:
      case 1: {
        bool persistent = random() % 4 != 0;
        std::string text = std::to_string(next);
        publish(text, persistent);
        if (persistent) alive[next] = text;
        ++next;
        break;
      }
      case 2:
        if (auto entry = queue_->take()) out.push_back(*entry);
        break;
      case 3:
        if (!out.empty()) {
          size_t at = random() % 3 == 0 ? random() % out.size() : 0;
          queue_->settle(out[at]);
          alive.erase(out[at].sequence);
          out.erase(out.begin() + static_cast<long>(at));
        }
        break;
      case 4:
        if (!out.empty()) {
          queue_->requeue(out.back());
          out.pop_back();
        }
        break;
      default:
        if (!store_.waiting.empty()) finish();
        turn_end();
    }
  }
  while (journal_->busy() || !store_.waiting.empty()) {
    turn_end();
    if (!store_.waiting.empty()) finish();
  }
  std::map<storage::Sequence, std::string> on_disk;
  for (const auto& [key, stored] : store_.messages) {
    on_disk[key.second] = std::string(amqp::as_text(stored->body()));
  }
  EXPECT_EQ(on_disk, alive);
  auto again = recovered();
  EXPECT_EQ(again->ready_count(), alive.size());
  for (const auto& [sequence, text] : alive) {
    auto entry = again->take();
    ASSERT_TRUE(entry);
    EXPECT_EQ(body(*entry), text);
    EXPECT_TRUE(entry->redelivered);
    again->settle(*entry);
  }
}

class Taker : public Consumer {
 public:
  bool can_take() const override { return credit > 0; }
  void take(Queue& queue, Entry entry) override {
    --credit;
    got += body(entry);
    queue.settle(entry);
  }
  void queue_deleted(Queue&) override { deleted = true; }
  int credit = 0;
  std::string got;
  bool deleted = false;
};

// A queue whose windows hold some sixteen messages: most of it is on disk only, transient ones too,
// and comes back in order, whatever else happens; a restart in the middle finds what was committed.
TEST_F(QueueTest, WhatDoesNotFitIsReadBackInOrder) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  auto make = [&] {
    return std::make_shared<Queue>(*journal_, pressed_, 7,
                                   QueueSettings{.name = "q", .durable = true});
  };
  queue_ = make();
  struct Known {
    std::string body;
    bool persistent;
  };
  std::map<storage::Sequence, Known> ready;  // what is in the queue and not out
  std::vector<Entry> out;
  storage::Sequence next = 1;
  auto settle_down = [&] {
    while (journal_->busy() || !store_.waiting.empty()) {
      turn_end();
      if (!store_.waiting.empty()) finish();
    }
  };
  size_t restarts = 0, purges = 0;
  for (int step = 0; step < 60'000; ++step) {
    unsigned dice = random() % 1000;
    // Phases of growing and of draining.
    bool growing = step / 3000 % 2 == 0;
    if (dice < (growing ? 500u : 200u)) {
      bool persistent = random() % 4 != 0;
      Known known{std::to_string(next) + std::string(random() % 2000, 'x'), persistent};
      publish(known.body, persistent);
      ready[next++] = known;
    } else if (dice < 700) {
      auto entry = queue_->take();
      ASSERT_EQ(entry.has_value(), !ready.empty());
      if (!entry) continue;
      ASSERT_EQ(entry->sequence, ready.begin()->first);
      ASSERT_EQ(body(*entry), ready.begin()->second.body);
      ready.erase(ready.begin());
      queue_->release(*entry);
      out.push_back(*entry);
    } else if (dice < 850) {
      if (out.empty()) continue;
      size_t at = random() % 3 == 0 ? random() % out.size() : 0;
      queue_->settle(out[at]);
      out.erase(out.begin() + static_cast<long>(at));
    } else if (dice < 900) {
      if (out.empty()) continue;
      size_t at = random() % out.size();
      Entry entry = out[at];
      out.erase(out.begin() + static_cast<long>(at));
      ASSERT_TRUE(queue_->reload(entry));
      ready[entry.sequence] = {body(entry), true};
      queue_->release(entry);
      queue_->requeue(entry);
    } else if (dice < 997) {
      if (!store_.waiting.empty()) finish();
      pressed_.turn_end();
      turn_end();
      uv_run(&loop_, UV_RUN_NOWAIT);
    } else if (dice < 998) {
      ASSERT_EQ(queue_->purge(), ready.size());
      ready.clear();
      ++purges;
    } else if (dice < 999) {
      auto peeked = queue_->peek(100);
      ASSERT_EQ(peeked.size(), std::min<size_t>(100, ready.size()));
      auto expected = ready.begin();
      for (const Entry& entry : peeked) ASSERT_EQ(body(entry), (expected++)->second.body);
    } else if (random() % 10 == 0) {
      // A restart: what is out is ready again, and transient messages may be gone.
      settle_down();
      for (const Entry& entry : out) {
        Entry again = entry;
        ASSERT_TRUE(queue_->reload(again));
        ready[again.sequence] = {body(again), entry.stored};
      }
      out.clear();
      queue_ = make();
      ASSERT_TRUE(recover(*queue_));
      size_t stored = store_.messages.size();
      ASSERT_LE(queue_->ready_count(), stored);
      std::erase_if(ready, [&](const auto& r) { return !store_.messages.contains({7, r.first}); });
      next = store_.position(7)->next;
      ++restarts;
    }
    ASSERT_EQ(queue_->ready_count(), ready.size());
    ASSERT_FALSE(failure_) << failure_->message;
  }
  EXPECT_GT(store_.reads, 0u);
  EXPECT_GT(restarts + purges, 0u);
}

// A consumer is given what is on disk without anybody's asking again.
TEST_F(QueueTest, ConsumersAreFedFromTheDisk) {
  queue_ =
      std::make_shared<Queue>(*journal_, pressed_, 7, QueueSettings{.name = "q", .durable = true});
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    std::string text = std::to_string(i) + std::string(500, 'x');
    expected += text;
    publish(text);
    turn_end();
    finish();
  }
  Taker taker;
  taker.credit = 1000;
  queue_->add_consumer(&taker, false);
  EXPECT_GT(taker.credit, 0);
  while (taker.credit > 0) uv_run(&loop_, UV_RUN_ONCE);
  EXPECT_EQ(taker.got, expected);
}

TEST_F(QueueTest, LostMessagesAreNoticedNotSkipped) {
  for (int i = 0; i < 1000; ++i) publish(std::to_string(i) + std::string(500, 'x'));
  turn_end();
  finish();
  store_.messages.erase(store_.messages.find({7, 700}));
  queue_ =
      std::make_shared<Queue>(*journal_, pressed_, 7, QueueSettings{.name = "q", .durable = true});
  ASSERT_TRUE(recover(*queue_));
  size_t taken = 0;
  for (auto entry = queue_->take(); entry && !failure_; entry = queue_->take()) {
    queue_->settle(*entry);
    ++taken;
  }
  EXPECT_LT(taken, 1000u);
  ASSERT_TRUE(failure_);
  EXPECT_EQ(failure_->code, Code::kCorrupt);
}

TEST(SequenceSet, RangesMergeIntoTheWatermark) {
  SequenceSet set;
  set.add(5);
  set.add(3);
  set.add(4);
  EXPECT_EQ(set.range_count(), 1u);
  set.add(7);
  EXPECT_EQ(set.range_count(), 2u);
  set.add(2);
  EXPECT_EQ(set.watermark(), 1u);
  set.add(1);
  EXPECT_EQ(set.watermark(), 6u);
  set.add(6);
  EXPECT_EQ(set.watermark(), 8u);
  EXPECT_EQ(set.range_count(), 0u);
}

TEST_F(QueueTest, ConsumersTakeTurnsAndSkipWhoCanNot) {
  Taker a, b, c;
  a.credit = c.credit = 10;
  for (Taker* taker : {&a, &b, &c}) queue_->add_consumer(taker, false);
  for (const char* text : {"1", "2", "3", "4"}) publish(text);
  EXPECT_EQ(a.got, "13");
  EXPECT_EQ(c.got, "24");
  b.credit = 1;
  queue_->consumer_ready(&b);
  queue_->remove_consumer(&a);
  for (const char* text : {"5", "6"}) publish(text);
  EXPECT_EQ(a.got, "13");
  EXPECT_EQ((b.got + c.got).size(), 4u);
  EXPECT_EQ(b.got.size(), 1u);
  queue_->remove();
  EXPECT_TRUE(b.deleted && c.deleted && !a.deleted);
}

TEST_F(QueueTest, ConfirmsAreDueWhenDurableAndUseMultiple) {
  Bodies bodies(store_, *journal_, &loop_);
  OneShard shard(store_, *journal_, resident_, bodies);
  std::vector<std::pair<uint64_t, bool>> acks;
  auto confirms = std::make_shared<Confirms>(
      [&](uint64_t tag, bool multiple) { acks.emplace_back(tag, multiple); }, nullptr);
  auto stored = [&] {
    publish("x");
    confirms->published(shard.host, shard.host.here(), 0);
  };
  stored();
  stored();
  turn_end();
  stored();
  confirms->published_now();  // tag 4: not stored, so due before tag 3
  EXPECT_EQ(confirms->flush(), 1u);
  EXPECT_EQ(acks, (std::vector<std::pair<uint64_t, bool>>{{4, false}}));
  finish();
  confirms->flush();
  EXPECT_EQ(acks.back(), std::pair(uint64_t{2}, true));
  turn_end();
  confirms->flush();
  EXPECT_EQ(acks.size(), 2u);
  finish();
  confirms->flush();
  EXPECT_EQ(acks.back(), std::pair(uint64_t{3}, false));
  stored();
  turn_end();
  finish();
  confirms->flush();
  // 4 was acknowledged before, so 5 is the oldest outstanding.
  EXPECT_EQ(acks.back(), std::pair(uint64_t{5}, false));
}

}  // namespace
}  // namespace sluice::broker
