// Priorities, groups, length limits and delivery counts, against a model that is a sorted map.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <tuple>

#include <gtest/gtest.h>

#include "broker/queue/limits.h"
#include "broker/queue/queue.h"
#include "storage/rocksdb/rocksdb_store.h"
#include "tests/broker/fake_store.h"

namespace sluice::broker {
namespace {

constexpr storage::QueueId kId = 1000;

struct Message {
  std::string body;
  uint64_t group = 0;
  bool persistent = true;
  uint32_t attempts = 0;
};

// Level and sequence within it.
struct Place {
  uint8_t priority;
  storage::Sequence sequence;
  // The order of delivery.
  bool operator<(const Place& other) const {
    return std::pair(-priority, sequence) < std::pair(-other.priority, other.sequence);
  }
  bool operator==(const Place&) const = default;
};

Place place_of(const Entry& entry) { return {entry.priority, entry.sequence}; }

class Collector : public Consumer {
 public:
  bool can_take() const override { return credit > 0; }
  void take(Queue&, Entry entry) override {
    --credit;
    got.push_back(std::move(entry));
  }
  void queue_deleted(Queue&) override {}
  size_t credit = 0;
  std::vector<Entry> got;
};

class Order {
 public:
  explicit Order(QueuePolicy policy, size_t memory = 0) : resident_(memory), policy_(policy) {
    uv_loop_init(&loop_);
    start();
  }
  ~Order() {
    queue_.reset();
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);
    EXPECT_EQ(uv_loop_close(&loop_), 0);
  }

  Accepted publish(const Message& message, uint8_t priority = 0) {
    auto record = storage::Record::make(
        {.routing_key = "q", .body = amqp::as_bytes(message.body), .group = message.group});
    return queue_->publish(std::move(record),
                           {.persistent = message.persistent, .priority = priority});
  }
  void commit() {
    if (!store_.waiting.empty()) store_.finish();
    uv_run(&loop_, UV_RUN_NOWAIT);
    resident_.turn_end();
    journal_->when_durable([] {});
    journal_->turn_end();
  }
  void commit_all() {
    do commit();
    while (journal_->busy() || !store_.waiting.empty());
  }
  // What fetching finds, as soon as it is committed.
  std::optional<Entry> take() {
    auto entry = queue_->take();
    for (int i = 0; !entry && queue_->ready_count() > 0 && i < 30; ++i) {
      commit_all();
      entry = queue_->take();
    }
    return entry;
  }
  void start() {
    failure_.reset();
    journal_ = std::make_unique<Journal>(store_, &loop_, [this](const Error& e) { failure_ = e; });
    queue_ = std::make_shared<Queue>(
        *journal_, resident_, kId,
        QueueSettings{.name = "q", .durable = true, .arguments = {}, .policy = policy_});
    queue_->when_dead([this](const std::shared_ptr<Queue>& queue, Entry entry, DeathReason reason) {
      EXPECT_TRUE(queue->reload(entry));
      dead_.emplace_back(std::string(amqp::as_text(entry.record->body())), reason);
      if (entry.sequence != 0) queue->settle(entry);
    });
    EXPECT_TRUE(queue_->recover(store_, *store_.queues()));
  }
  // Without what was not committed.
  void crash() {
    store_.waiting.clear();
    queue_.reset();
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);
    start();
  }
  void restart() {
    commit_all();
    crash();
  }

  uv_loop_t loop_;
  FakeStore store_;
  ResidentSet resident_;
  QueuePolicy policy_;
  std::optional<Error> failure_;
  std::unique_ptr<Journal> journal_;
  std::shared_ptr<Queue> queue_;
  std::vector<std::pair<std::string, DeathReason>> dead_;
};

std::string body(const Entry& entry) { return std::string(amqp::as_text(entry.record->body())); }

// One random run: everything that a queue can be asked, and after each step the queue is what the
// model is.
class Model {
 public:
  explicit Model(unsigned seed) : random_(seed) {
    QueuePolicy policy;
    if (one_in(2)) policy.priority_max = one_in(2) ? 255 : static_cast<uint8_t>(below(4));
    groups_ = one_in(3) ? 0 : 1 + below(one_in(2) ? 3 : 40);
    if (one_in(2)) policy.delivery_limit = static_cast<uint32_t>(below(4));
    change_limits(policy);
    body_bytes_max_ = one_in(2) ? 2000 : 40;
    order_ = std::make_unique<Order>(policy, one_in(2) ? 0 : size_t{1} << 30);
  }

  void run(size_t steps) {
    for (size_t step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      one_step(step / 300 % 2 == 0);
      if (testing::Test::HasFatalFailure()) return;
      compare();
    }
  }

 private:
  size_t below(size_t end) { return random_() % end; }
  bool one_in(size_t n) { return below(n) == 0; }

  void change_limits(QueuePolicy& policy) {
    policy.count_max.reset();
    policy.bytes_max.reset();
    if (one_in(2)) policy.count_max = below(300);
    if (one_in(3)) policy.bytes_max = below(100'000);
    policy.overflow = static_cast<Overflow>(below(3));
  }

  void one_step(bool growing) {
    size_t dice = below(1000);
    if (dice < (growing ? 500u : 200u)) {
      publish();
    } else if (dice < 650) {
      take();
    } else if (dice < 700) {
      consume(1 + below(20));
    } else if (dice < 800) {
      if (!out_.empty()) settle(pick());
    } else if (dice < 860) {
      if (!out_.empty()) requeue(pick());
    } else if (dice < 880) {
      if (!out_.empty()) reject(pick());
    } else if (dice < 980) {
      order_->commit();
    } else if (dice < 984) {
      EXPECT_EQ(order_->queue_->purge(), ready_.size());
      ready_.clear();
    } else if (dice < 989) {
      peek();
    } else if (dice < 993) {
      auto policy = order_->queue_->policy();
      change_limits(policy);
      order_->policy_ = policy;
      order_->queue_->change_policy(policy);
      trim();
    } else if (dice < 996) {
      restart(false);
    } else if (dice < 998) {
      restart(true);
    }
  }

  void publish() {
    const QueuePolicy& policy = order_->policy_;
    auto priority = static_cast<uint8_t>(below(policy.priority_max > 8 ? 256 : 6));
    Message message{std::to_string(++published_) + " " + std::string(below(body_bytes_max_), 'x'),
                    groups_ > 0 && !one_in(3) ? 1 + below(one_in(2) ? 1 : groups_) : 0, !one_in(4)};
    bool full = policy.overflow != Overflow::kDropHead && over(1, message.body.size());
    Accepted accepted = order_->publish(message, priority);
    ASSERT_EQ(accepted == Accepted::kRefused, full);
    if (full) {
      if (policy.overflow == Overflow::kRejectPublishDlx) {
        dead_.emplace_back(message.body, DeathReason::kMaxlen);
      }
      return;
    }
    ASSERT_EQ(accepted == Accepted::kStored, message.persistent);
    uint8_t level = message.group != 0 ? 0 : std::min(priority, policy.priority_max);
    ready_.emplace(Place{level, next_sequence_[level]++}, message);
    trim();
  }

  bool over(size_t count, size_t bytes) const {
    const QueuePolicy& policy = order_->policy_;
    return (policy.count_max && ready_.size() + count > *policy.count_max) ||
           (policy.bytes_max && ready_bytes() + bytes > *policy.bytes_max);
  }
  size_t ready_bytes() const {
    size_t bytes = 0;
    for (const auto& [place, message] : ready_) bytes += message.body.size();
    return bytes;
  }
  void trim() {
    if (order_->policy_.overflow != Overflow::kDropHead) return;
    while (over(0, 0)) {
      uint8_t lowest = ready_.rbegin()->first.priority;
      auto oldest = ready_.lower_bound({lowest, 0});
      dead_.emplace_back(oldest->second.body, DeathReason::kMaxlen);
      ready_.erase(oldest);
    }
    for (int i = 0; i < 1000 && order_->queue_->ready_count() > ready_.size(); ++i) {
      order_->commit();
    }
  }

  // The first that may be taken.
  std::map<Place, Message>::iterator next() {
    std::set<uint64_t> held;
    for (const auto& [entry, message] : out_) held.insert(message.group);
    auto at = ready_.begin();
    while (at != ready_.end() && at->second.group != 0 && held.contains(at->second.group)) ++at;
    return at;
  }
  void taken(Entry entry) {
    auto wanted = next();
    ASSERT_NE(wanted, ready_.end());
    ASSERT_EQ(place_of(entry), wanted->first);
    ASSERT_EQ(body(entry), wanted->second.body);
    ASSERT_EQ(entry.attempts, wanted->second.attempts);
    ASSERT_TRUE(entry.redelivered || entry.attempts == 0);
    if (!entry.stored && one_in(2)) order_->queue_->release(entry);
    out_.emplace_back(std::move(entry), wanted->second);
    ready_.erase(wanted);
  }
  void take() {
    bool some = next() != ready_.end();
    auto entry = order_->take();
    ASSERT_EQ(entry.has_value(), some);
    if (entry) taken(*std::move(entry));
  }
  void consume(size_t credit) {
    Collector collector;
    collector.credit = credit;
    order_->queue_->add_consumer(&collector, false);
    size_t checked = 0;
    // Reads take as long as another thread is given to them.
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline && !order_->failure_) {
      for (; checked < collector.got.size(); ++checked) {
        ASSERT_NO_FATAL_FAILURE(taken(std::move(collector.got[checked])));
      }
      if (collector.credit == 0 || next() == ready_.end()) break;
      order_->commit();
    }
    ASSERT_FALSE(order_->failure_) << order_->failure_->message;
    ASSERT_TRUE(collector.credit == 0 || next() == ready_.end()) << "a consumer starves";
    order_->queue_->remove_consumer(&collector);
  }

  size_t pick() { return one_in(3) ? below(out_.size()) : 0; }
  std::pair<Entry, Message> take_out(size_t at) {
    auto result = std::move(out_[at]);
    out_.erase(out_.begin() + static_cast<long>(at));
    return result;
  }
  void settle(size_t at) { order_->queue_->settle(take_out(at).first); }
  void reject(size_t at) {
    auto [entry, message] = take_out(at);
    dead_.emplace_back(message.body, DeathReason::kRejected);
    order_->queue_->die(std::move(entry), DeathReason::kRejected);
  }
  void requeue(size_t at) {
    auto [entry, message] = take_out(at);
    Place place = place_of(entry);
    auto limit = order_->policy_.delivery_limit;
    bool counts = !one_in(4);
    message.attempts += counts;
    if (counts && limit && message.attempts > *limit) {
      dead_.emplace_back(message.body, DeathReason::kDeliveryLimit);
    } else {
      ready_.emplace(place, message);
    }
    order_->queue_->requeue(std::move(entry), counts ? Queue::Counts::kYes : Queue::Counts::kNo);
    trim();
  }
  void peek() {
    order_->commit_all();
    size_t count = below(200);
    auto peeked = order_->queue_->peek(count);
    ASSERT_EQ(peeked.size(), std::min(count, ready_.size()));
    auto wanted = ready_.begin();
    for (const Entry& entry : peeked) ASSERT_EQ(body(entry), (wanted++)->second.body);
  }

  bool stored(const Place& place) const {
    storage::QueueId id = kId + place.priority;
    if (!order_->store_.messages.contains({id, place.sequence})) return false;
    auto position = order_->store_.positions.find(id);
    if (position == order_->store_.positions.end()) return true;
    return std::ranges::none_of(position->second.purged, [&](const storage::SequenceRange& r) {
      return place.sequence >= r.first && place.sequence < r.end;
    });
  }
  // What is out is ready again; what is not stored is gone. Where the process was killed, what was
  // not committed counts for nothing, so the model takes from the store which messages those are.
  void restart(bool killed) {
    if (!killed) order_->commit_all();
    for (auto& [entry, message] : out_) ready_.emplace(place_of(entry), message);
    out_.clear();
    order_->crash();
    if (killed) {
      auto known = std::exchange(ready_, {});
      for (const auto& [key, record] : order_->store_.messages) {
        Place place{static_cast<uint8_t>(key.first - kId), key.second};
        if (!stored(place)) continue;
        auto tried = order_->store_.attempts.find(key);
        uint32_t attempts = tried == order_->store_.attempts.end() ? 0 : tried->second;
        if (auto before = known.find(place); before != known.end()) {
          ASSERT_LE(attempts, before->second.attempts);
        }
        ready_.emplace(place, Message{std::string(amqp::as_text(record->body())), record->group(),
                                      true, attempts});
      }
    } else {
      std::erase_if(ready_, [&](const auto& ready) { return !stored(ready.first); });
    }
    for (auto& [level, next] : next_sequence_) {
      auto position = order_->store_.position(kId + level);
      next = position->next;
      for (const auto& range : position->purged) next = std::max(next.value, range.end);
    }
    compare();
    order_->queue_->change_policy(order_->policy_);
    trim();
  }

  void compare() {
    ASSERT_FALSE(order_->failure_) << order_->failure_->message;
    ASSERT_EQ(order_->queue_->ready_count(), ready_.size());
    ASSERT_EQ(order_->queue_->ready_bytes(), ready_bytes());
    ASSERT_EQ(order_->dead_, dead_);
    order_->dead_.clear();
    dead_.clear();
  }

  // Sequences begin at 1.
  struct Next {
    storage::Sequence value = 1;
    storage::Sequence operator++(int) { return value++; }
    Next& operator=(storage::Sequence next) {
      value = next;
      return *this;
    }
  };

  std::mt19937 random_;
  size_t groups_ = 0;
  size_t body_bytes_max_ = 0;
  std::unique_ptr<Order> order_;
  std::map<Place, Message> ready_;
  std::vector<std::pair<Entry, Message>> out_;
  std::vector<std::pair<std::string, DeathReason>> dead_;
  std::map<uint8_t, Next> next_sequence_;
  size_t published_ = 0;
};

size_t from_environment(const char* name, size_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

// SLUICE_ORDER_SEEDS runs, the first with SLUICE_ORDER_SEED.
TEST(Order, IsTheModelsWhateverHappens) {
  size_t first = from_environment("SLUICE_ORDER_SEED", std::random_device()());
  size_t count = from_environment("SLUICE_ORDER_SEEDS", 30);
  for (size_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("SLUICE_ORDER_SEED=" + std::to_string(seed));
    Model(static_cast<unsigned>(seed)).run(2000);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Against the store itself: behind SLUICE_ORDER_HOT messages of a group whose first one is out
// there are others, and the group goes on where it was.
TEST(HotGroup, DoesNotBlockOthersNorTakeMemory) {
  size_t hot = from_environment("SLUICE_ORDER_HOT", 50'000);
  constexpr size_t kOthers = 100;
  constexpr size_t kMemory = 4u << 20;
  std::string directory = (std::filesystem::temp_directory_path() / "sluice-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  uv_loop_t loop;
  uv_loop_init(&loop);
  {
    auto store = *storage::open_rocksdb({.directory = directory, .sync = storage::SyncMode::kNone});
    ResidentSet resident(kMemory);
    Journal journal(*store, &loop, [](const Error& error) { FAIL() << error.message; });
    auto queue = std::make_shared<Queue>(journal, resident, kId,
                                         QueueSettings{.name = "q", .durable = true});
    size_t most = 0;
    auto turn = [&] {
      resident.turn_end();
      journal.turn_end();
      most = std::max(most, storage::Record::resident_bytes());
      uv_run(&loop, UV_RUN_NOWAIT);
    };
    auto all_durable = [&] {
      bool durable = false;
      journal.when_durable([&] { durable = true; });
      while (!durable) turn();
    };
    std::string text(256, 'x');
    auto publish = [&](uint64_t group) {
      queue->publish(
          storage::Record::make({.routing_key = "q", .body = amqp::as_bytes(text), .group = group}),
          {.persistent = true});
    };
    for (size_t i = 0; i < hot; ++i) {
      publish(1);
      if (i % 1000 == 999) all_durable();
    }
    for (size_t i = 0; i < kOthers; ++i) publish(2 + i % 2 * i);
    all_durable();
    Collector collector;
    collector.credit = 1;
    queue->add_consumer(&collector, false);
    while (collector.credit > 0) turn();
    ASSERT_EQ(collector.got[0].sequence, 1u);
    collector.credit = 1;
    queue->consumer_ready(&collector);
    while (collector.credit > 0) turn();
    EXPECT_EQ(collector.got[1].sequence, hot + 1);
    EXPECT_EQ(queue->ready_count(), hot + kOthers - 2);
    // The hot group alternates with whatever else is there, and keeps its order.
    storage::Sequence last = 1;
    queue->settle(collector.got[0]);
    for (size_t i = 0; i < 1000; ++i) {
      auto entry = queue->take();
      ASSERT_TRUE(entry);
      if (entry->group == 1) {
        ASSERT_EQ(entry->sequence, ++last);
      }
      queue->settle(*entry);
    }
    EXPECT_EQ(last, 1001u);
    EXPECT_LT(most, 4 * kMemory);
    // In no more time than ever, though what is out lies in between.
    EXPECT_EQ(queue->purge(), hot + kOthers - 2 - 1000);
    queue->requeue(std::move(collector.got[1]));
    queue->remove_consumer(&collector);
    all_durable();
    auto again = std::make_shared<Queue>(journal, resident, kId,
                                         QueueSettings{.name = "q", .durable = true});
    ASSERT_TRUE(again->recover(*store, *store->queues()));
    EXPECT_EQ(again->ready_count(), 1u);
    auto entry = again->take();
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->sequence, hot + 1);
    EXPECT_EQ(entry->attempts, 1u);
    collector.got.clear();
    entry.reset();
    again.reset();
    queue.reset();
    std::ignore = store->close({});
    store.reset();
    while (uv_run(&loop, UV_RUN_NOWAIT) != 0 && journal.busy()) {
    }
  }
  uv_run(&loop, UV_RUN_DEFAULT);
  EXPECT_EQ(uv_loop_close(&loop), 0);
  std::filesystem::remove_all(directory);
}

// What a clean restart does not find is numbered anew, but not what was purged: it would count as
// purged as well.
TEST(Order, WhatWasPurgedIsNotNumberedAnew) {
  Order order({}, size_t{1} << 30);
  order.publish({.body = "out"});
  auto out = order.take();
  order.publish({.body = "stored"});
  order.publish({.body = "transient", .persistent = false});
  order.queue_->purge();
  order.restart();
  order.publish({.body = "new"});
  order.restart();
  EXPECT_EQ(order.queue_->ready_count(), 2u);
  EXPECT_EQ(body(*order.take()), "out");
  EXPECT_EQ(body(*order.take()), "new");
}

// An unused level is nothing in the store, a used one is found without looking for it.
TEST(Priorities, ALevelIsThereOnceItIsUsed) {
  Order order({.priority_max = 255});
  order.publish({.body = "low"}, 3);
  order.publish({.body = "high"}, 200);
  order.commit_all();
  EXPECT_EQ(order.store_.queues(), (std::vector<storage::QueueId>{kId + 3, kId + 200}));
  order.restart();
  EXPECT_EQ(order.queue_->ready_count(), 2u);
  EXPECT_EQ(body(*order.take()), "high");
  EXPECT_EQ(body(*order.take()), "low");
  order.queue_->remove();
  order.commit_all();
  EXPECT_TRUE(order.store_.messages.empty());
}

TEST(Limits, ALowerLimitTrimsALongQueueAPartAtATime) {
  Order order({});
  for (int i = 0; i < 10'000; ++i) {
    order.publish({.body = std::to_string(i) + std::string(100, 'x')});
    if (i % 100 == 0) order.commit();
  }
  order.commit_all();
  size_t reads = order.store_.reads;
  order.queue_->change_policy({.count_max = 10});
  EXPECT_LE(order.store_.reads, reads + 2);
  EXPECT_GE(order.queue_->ready_count(), 10'000u - kDropsPerTurn);
  for (int i = 0; i < 10'000 && order.queue_->ready_count() > 10; ++i) order.commit();
  EXPECT_EQ(order.queue_->ready_count(), 10u);
  EXPECT_EQ(order.dead_.size(), 9'990u);
  EXPECT_EQ(order.take()->sequence, 9'991u);
}

}  // namespace
}  // namespace sluice::broker
