#include "executor/pool/fair_queue.h"

#include <string>

#include <gtest/gtest.h>

namespace sluice::executor {
namespace {

using Queue = FairQueue<char, int, void>;

// What it grants, in order: jobs by their letter, sleepers by their digit.
std::string granted(Queue& queue) {
  std::string order;
  while (auto grant = queue.pop()) {
    order += grant->job ? *grant->job : static_cast<char>('0' + *grant->sleeper);
  }
  return order;
}

// A lane with jobs and seats whose end does not mind what is left in it.
struct Lane : Queue::Lane {
  Lane(Queue& queue, size_t seats, size_t share = 100, size_t limit = 100)
      : Queue::Lane(nullptr, share, limit), queue_(queue) {
    for (size_t i = 0; i < seats; i++) queue.add_seat(*this);
  }
  ~Lane() {
    while (queue_.withdraw(*this)) continue;
    while (running() > 0) queue_.done(*this);
  }
  void push(const std::string& jobs) {
    for (char job : jobs) queue_.push(*this, job);
  }
  Queue& queue_;
};

TEST(FairQueue, LanesTakeTurnsAndKeepTheirOrder) {
  Queue queue(100);
  Lane a(queue, 10), b(queue, 10);
  a.push("abc");
  b.push("xy");
  EXPECT_EQ(queue.size(), 5u);
  EXPECT_EQ(granted(queue), "axbyc");
  EXPECT_EQ(queue.size(), 0u);
}

TEST(FairQueue, ALaneHasNoMoreThanItsShare) {
  Queue queue(100);
  Lane a(queue, 10, 2), b(queue, 10, 2);
  a.push("abcd");
  EXPECT_EQ(granted(queue), "ab");
  b.push("x");
  EXPECT_EQ(granted(queue), "x");
  queue.done(a);
  EXPECT_EQ(granted(queue), "c");
  queue.done(b);
  queue.done(a);
  queue.done(a);
  EXPECT_EQ(granted(queue), "d");
}

TEST(FairQueue, NoMoreRunThanThereAreSlots) {
  Queue queue(3);
  Lane a(queue, 10), b(queue, 10);
  a.push("abc");
  b.push("xyz");
  EXPECT_EQ(granted(queue), "axb");
  EXPECT_EQ(queue.running(), 3u);
  queue.done(a);
  EXPECT_EQ(granted(queue), "y");
}

TEST(FairQueue, AJobWaitsForASeat) {
  Queue queue(100);
  Lane a(queue, 1);
  a.push("ab");
  EXPECT_EQ(granted(queue), "a");
  queue.done(a);  // its sandbox was thrown away
  EXPECT_EQ(granted(queue), "");
  queue.add_seat(a);
  EXPECT_EQ(granted(queue), "b");
}

TEST(FairQueue, ALaneWithoutASeatHasNoTurn) {
  Queue queue(100);
  Lane a(queue, 1), b(queue, 1);
  a.push("a");
  b.push("x");
  queue.remove_seat(a);
  EXPECT_EQ(granted(queue), "x");
  queue.add_seat(a);
  EXPECT_EQ(granted(queue), "a");
}

TEST(FairQueue, ASleeperGivesItsSlotAwayAndGoesOnBeforeNewJobs) {
  Queue queue(1);
  Lane a(queue, 10), b(queue, 10);
  a.push("abc");
  EXPECT_EQ(granted(queue), "a");
  queue.sleep(a);
  EXPECT_EQ(granted(queue), "b");
  queue.wake(a, 7);
  EXPECT_EQ(granted(queue), "");
  b.push("x");
  queue.done(a);  // b's slot: lane a was in turn before lane b, and 7 goes before c
  EXPECT_EQ(granted(queue), "7");
  queue.done(a);
  EXPECT_EQ(granted(queue), "x");
}

TEST(FairQueue, TheLimitCountsThoseAsleep) {
  Queue queue(100);
  Lane a(queue, 10, 2, 3);
  a.push("abcdefg");
  EXPECT_EQ(granted(queue), "ab");
  queue.sleep(a);
  queue.sleep(a);
  EXPECT_EQ(granted(queue), "c");
  queue.wake(a, 1);
  queue.wake(a, 2);
  EXPECT_EQ(granted(queue), "1");  // the share
  EXPECT_EQ(a.begun(), 3u);
  queue.done(a);
  EXPECT_EQ(granted(queue), "2");
}

TEST(FairQueue, OneThatCanWaitNoLongerGoesOnWithoutASlot) {
  Queue queue(1);
  Lane a(queue, 10), b(queue, 10);
  a.push("a");
  EXPECT_EQ(granted(queue), "a");
  queue.sleep(a);
  b.push("xy");
  EXPECT_EQ(granted(queue), "x");
  queue.wake(a, 1);
  queue.force(a, 1);
  EXPECT_EQ(queue.running(), 2u);
  queue.done(b);
  EXPECT_EQ(granted(queue), "");  // what was taken beyond the slots is given back first
  queue.done(a);
  EXPECT_EQ(granted(queue), "y");
}

}  // namespace
}  // namespace sluice::executor
