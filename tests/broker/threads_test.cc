// What several threads do to each other: standing still, and mail.

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <uv.h>

#include "broker/net/handles.h"
#include "broker/threads/courier.h"

namespace sluice::broker {
namespace {

// Threads with loops of their own, as shards are.
class Crew {
 public:
  explicit Crew(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      auto member = std::make_unique<Member>();
      uv_loop_init(&member->loop);
      member->wakeup =
          std::make_unique<net::Wakeup>(&member->loop, [this, i] { mailroom.work(i); });
      mailroom.add([wakeup = member->wakeup.get()] { wakeup->send(); });
      members_.push_back(std::move(member));
    }
    for (unsigned i = 0; i < count; ++i) {
      Member& member = *members_[i];
      member.courier = std::make_unique<Courier>(mailroom, i);
      member.turn_end =
          std::make_unique<net::TurnEnd>(&member.loop, [&member] { member.courier->flush(); });
    }
    for (auto& member : members_) {
      member->thread = std::thread([&loop = member->loop] { uv_run(&loop, UV_RUN_DEFAULT); });
    }
  }
  ~Crew() {
    for (unsigned i = 0; i < members_.size(); ++i) {
      mailroom.post(i, [&loop = members_[i]->loop] { uv_stop(&loop); });
    }
    for (auto& member : members_) {
      member->thread.join();
      member->turn_end.reset();
      member->wakeup.reset();
      uv_run(&member->loop, UV_RUN_DEFAULT);
      uv_loop_close(&member->loop);
    }
  }

  Courier& courier(unsigned i) { return *members_[i]->courier; }
  unsigned count() const { return static_cast<unsigned>(members_.size()); }

  Mailroom mailroom;

 private:
  struct Member {
    uv_loop_t loop;
    std::unique_ptr<net::Wakeup> wakeup;
    std::unique_ptr<Courier> courier;
    std::unique_ptr<net::TurnEnd> turn_end;
    std::thread thread;
  };
  std::vector<std::unique_ptr<Member>> members_;
};

TEST(StandstillTest, OneThreadNeedsNobody) {
  Standstill standstill;
  standstill.join([] { FAIL(); });
  Standstill::Guard outer(standstill);
  EXPECT_TRUE(outer.outermost());
  Standstill::Guard inner(standstill);
  EXPECT_FALSE(inner.outermost());
}

// Everybody mails everybody, reads what all share without a lock, and changes it now and then.
TEST(CourierTest, MailKeepsItsOrderAndChangesHaveTheWorldForThemselves) {
  constexpr unsigned kThreads = 4;
  constexpr int kRounds = 2000;
  Crew crew(kThreads);
  // Not atomic: the sanitizer sees it where two threads meet.
  std::vector<int> shared(64, 0);
  int received[kThreads][kThreads] = {};
  std::atomic<unsigned> finished = 0;
  std::atomic<int> mails = 0;

  std::function<void(unsigned, int, std::mt19937&)> round = [&](unsigned me, int number,
                                                                std::mt19937& random) {
    for (int value : shared) ASSERT_EQ(value, shared[0]);
    for (unsigned to = 0; to < kThreads; ++to) {
      if (to == me) continue;
      crew.courier(me).send(to, [&, me, to, number] {
        EXPECT_EQ(received[me][to]++, number);
        ++mails;
      });
    }
    if (random() % 8 == 0) {
      Courier::Change change(crew.courier(me));
      for (int& value : shared) ++value;
      // What was sent before has been done by now.
      for (unsigned to = 0; to < kThreads; ++to) {
        if (to != me) {
          EXPECT_EQ(received[me][to], number + 1);
        }
      }
      Courier::Change nested(crew.courier(me));
      EXPECT_FALSE(nested.outermost());
    }
    if (number + 1 == kRounds) {
      ++finished;
      finished.notify_one();
      return;
    }
    crew.courier(me).send(me, [&, me, number] { round(me, number + 1, random); });
  };

  uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::vector<std::mt19937> randoms;
  for (unsigned me = 0; me < kThreads; ++me) randoms.emplace_back(seed + me);
  for (unsigned me = 0; me < kThreads; ++me) {
    crew.mailroom.post(me, [&, me] { round(me, 0, randoms[me]); });
  }
  for (unsigned count = 0; count < kThreads; count = finished) finished.wait(count);
  // The last mails are on their way.
  while (mails < static_cast<int>(kThreads * (kThreads - 1) * kRounds)) std::this_thread::yield();
}

}  // namespace
}  // namespace sluice::broker
