#include "broker/routing/dead_letter.h"

#include <gtest/gtest.h>

#include "broker/routing/virtual_host.h"
#include "tests/broker/fake_store.h"
#include "tests/broker/one_shard.h"

namespace sluice::broker {
namespace {

storage::RecordPtr record() { return storage::Record::make({.exchange = "e", .routing_key = "k"}); }

const amqp::Table& death(const amqp::Properties& properties, size_t index) {
  return *properties.headers->find("x-death")->array()->at(index).table();
}
std::string text(const amqp::Table& table, std::string_view name) {
  return *table.find(name)->text();
}

TEST(Death, OneEntryForEachQueueAndReasonTheNewestFirst) {
  amqp::Properties properties;
  properties.expiration = "100";
  add_death(properties, "a", *record(), DeathReason::kExpired);
  add_death(properties, "b", *record(), DeathReason::kMaxlen);
  add_death(properties, "a", *record(), DeathReason::kExpired);
  const amqp::Array& deaths = *properties.headers->find("x-death")->array();
  ASSERT_EQ(deaths.size(), 2u);
  const amqp::Table& newest = death(properties, 0);
  EXPECT_EQ(text(newest, "queue"), "a");
  EXPECT_EQ(text(newest, "reason"), "expired");
  EXPECT_EQ(newest.find("count")->integer(), 2);
  EXPECT_EQ(text(newest, "exchange"), "e");
  EXPECT_EQ(*newest.find("routing-keys")->array()->at(0).text(), "k");
  EXPECT_NE(std::get_if<amqp::Timestamp>(&newest.find("time")->value), nullptr);
  EXPECT_EQ(text(newest, "original-expiration"), "100");
  EXPECT_FALSE(properties.expiration);
  EXPECT_EQ(text(death(properties, 1), "reason"), "maxlen");
  const amqp::Table& headers = *properties.headers;
  EXPECT_EQ(text(headers, "x-first-death-queue"), "a");
  EXPECT_EQ(text(headers, "x-first-death-reason"), "expired");
  EXPECT_EQ(text(headers, "x-first-death-exchange"), "e");
  EXPECT_EQ(text(headers, "x-last-death-queue"), "a");
}

TEST(Death, InventedHeadersDoNoHarm) {
  for (amqp::Field invented :
       {amqp::Field(std::string("text")), amqp::Field(amqp::Array{int32_t{1}, amqp::Table{}}),
        amqp::Field(amqp::Array{amqp::Table{{{"queue", int32_t{1}}, {"count", int64_t{-5}}}}})}) {
    amqp::Properties properties;
    properties.headers.emplace().set("x-death", invented);
    EXPECT_FALSE(comes_back(*properties.headers, "a"));
    add_death(properties, "a", *record(), DeathReason::kRejected);
    EXPECT_EQ(death(properties, 0).find("count")->integer(), 1);
  }
}

TEST(Death, ACycleIsOneWithoutARejection) {
  amqp::Properties properties;
  add_death(properties, "a", *record(), DeathReason::kMaxlen);
  add_death(properties, "b", *record(), DeathReason::kExpired);
  EXPECT_TRUE(comes_back(*properties.headers, "a"));
  EXPECT_TRUE(comes_back(*properties.headers, "b"));
  EXPECT_FALSE(comes_back(*properties.headers, "c"));
  add_death(properties, "c", *record(), DeathReason::kRejected);
  EXPECT_FALSE(comes_back(*properties.headers, "a"));
}

class DeadLetterTest : public testing::Test {
 protected:
  ~DeadLetterTest() override {
    shard_.reset();
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);
    EXPECT_EQ(uv_loop_close(&loop_), 0);
  }
  std::shared_ptr<Queue> declare(const std::string& name, QueuePolicy policy,
                                 const std::string& dead_letters_to = "") {
    QueueSettings settings{.name = name, .durable = true, .arguments = {}, .policy = policy};
    if (!dead_letters_to.empty()) {
      settings.arguments.set("x-dead-letter-exchange", std::string());
      settings.arguments.set("x-dead-letter-routing-key", dead_letters_to);
    }
    return host_->declare_queue(std::move(settings), nullptr)->queue;
  }
  Published publish(std::string_view queue, std::string_view body) {
    amqp::Properties properties;
    properties.delivery_mode = amqp::Properties::kPersistent;
    std::string encoded = properties.encode();
    return *host_->publish({.exchange = "",
                            .routing_key = queue,
                            .properties = amqp::as_bytes(encoded),
                            .body = amqp::as_bytes(body)});
  }
  void commit() {
    journal_->when_durable([] {});
    journal_->turn_end();
    while (!store_.waiting.empty()) store_.finish();
    uv_run(&loop_, UV_RUN_NOWAIT);
  }
  static std::string bodies(Queue& queue) {
    std::string all;
    for (const Entry& entry : queue.peek(100)) all += amqp::as_text(entry.record->body());
    return all;
  }

  struct Loop : uv_loop_t {
    Loop() { uv_loop_init(this); }
  };
  Loop loop_;
  FakeStore store_;
  ResidentSet resident_{size_t{1} << 30};
  std::unique_ptr<Journal> journal_ = std::make_unique<Journal>(
      store_, &loop_, [](const Error& error) { FAIL() << error.message; });
  Bodies bodies_{store_, *journal_, &loop_};
  std::unique_ptr<OneShard> shard_ =
      std::make_unique<OneShard>(store_, *journal_, resident_, bodies_);
  VirtualHost* const host_ = &shard_->host;
};

TEST_F(DeadLetterTest, WhatALimitDropsIsDeadLetteredInTheSameCommit) {
  auto dead = declare("dead", {});
  auto queue = declare("q", {.count_max = 2}, "dead");
  for (const char* body : {"1", "2"}) publish("q", body);
  commit();
  publish("q", "3");
  EXPECT_EQ(bodies(*queue), "23");
  EXPECT_EQ(bodies(*dead), "1");
  size_t writes = store_.writes;
  commit();
  EXPECT_EQ(store_.writes, writes + 1);
  EXPECT_EQ(store_.messages.size(), 3u);
  EXPECT_EQ(host_->counters().dead_lettered, 1u);
  EXPECT_EQ(queue->dead_count(DeathReason::kMaxlen), 1u);
  auto entry = dead->take();
  auto properties = amqp::Properties::of_stored(entry->record->properties());
  EXPECT_EQ(text(death(properties, 0), "reason"), "maxlen");
  EXPECT_EQ(text(death(properties, 0), "queue"), "q");
}

TEST_F(DeadLetterTest, RefusedOnesAreDeadLetteredWhereThePolicySaysSo) {
  auto dead = declare("dead", {});
  auto plain = declare("r", {.count_max = 1, .overflow = Overflow::kRejectPublish}, "dead");
  auto queue = declare("q", {.bytes_max = 4, .overflow = Overflow::kRejectPublishDlx}, "dead");
  EXPECT_EQ(publish("r", "1").refused_count, 0u);
  EXPECT_EQ(publish("r", "2").refused_count, 1u);
  EXPECT_EQ(dead->ready_count(), 0u);
  EXPECT_EQ(publish("q", "1234").refused_count, 0u);
  EXPECT_EQ(publish("q", "5").refused_count, 1u);
  EXPECT_EQ(bodies(*queue), "1234");
  EXPECT_EQ(bodies(*dead), "5");
}

TEST_F(DeadLetterTest, ADeliveryLimitDeadLettersInsteadOfRequeueing) {
  auto dead = declare("dead", {});
  auto queue = declare("q", {.delivery_limit = 1}, "dead");
  publish("q", "m");
  queue->requeue(*queue->take());
  EXPECT_EQ(queue->ready_count(), 1u);
  queue->requeue(*queue->take());
  EXPECT_EQ(queue->ready_count() + queue->unacked_count(), 0u);
  EXPECT_EQ(bodies(*dead), "m");
}

TEST_F(DeadLetterTest, NothingGoesRoundForEver) {
  auto a = declare("a", {.count_max = 1}, "b");
  auto b = declare("b", {.count_max = 1}, "a");
  auto self = declare("self", {.count_max = 0}, "self");
  publish("self", "x");
  EXPECT_EQ(self->ready_count(), 0u);
  for (int i = 0; i < 100; ++i) publish("a", std::to_string(i % 10));
  EXPECT_EQ(a->ready_count(), 1u);
  EXPECT_EQ(b->ready_count(), 1u);
  const Counters& counters = host_->counters();
  EXPECT_GT(counters.dead_letter_cycles, 0u);
  // 101 were published, 2 are there.
  EXPECT_EQ(counters.discarded, 99u);
}

// A chain of full queues is gone through a part at a time, and not by recursion.
TEST_F(DeadLetterTest, ALongChainOfFullQueues) {
  constexpr int kQueues = 20'000;
  for (int i = 0; i < kQueues; ++i) {
    declare("q" + std::to_string(i), {.count_max = 1}, "q" + std::to_string(i + 1));
    publish("q" + std::to_string(i), "full");
  }
  auto last = declare("q" + std::to_string(kQueues), {});
  commit();
  publish("q0", "one more");
  EXPECT_EQ(last->ready_count(), 0u);
  for (int i = 0; i < kQueues && last->ready_count() == 0; ++i) commit();
  EXPECT_EQ(last->ready_count(), 1u);
  EXPECT_EQ(host_->counters().dead_lettered, static_cast<uint64_t>(kQueues));
}

}  // namespace
}  // namespace sluice::broker
