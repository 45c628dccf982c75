#include "executor/service/fair_queue.h"

#include <string>

#include <gtest/gtest.h>

namespace sluice::executor {
namespace {

std::string drained(FairQueue<int, char>& queue) {
  std::string order;
  while (auto job = queue.pop()) order += job->second;
  return order;
}

TEST(FairQueue, LanesTakeTurnsAndKeepTheirOrder) {
  FairQueue<int, char> queue(10);
  for (char job : {'a', 'b', 'c'}) queue.push(1, job);
  for (char job : {'x', 'y'}) queue.push(2, job);
  EXPECT_EQ(queue.size(), 5u);
  EXPECT_EQ(drained(queue), "axbyc");
}

TEST(FairQueue, ALaneHasNoMoreThanItsShare) {
  FairQueue<int, char> queue(2);
  for (char job : {'a', 'b', 'c', 'd'}) queue.push(1, job);
  EXPECT_EQ(drained(queue), "ab");
  EXPECT_FALSE(queue.runnable());
  queue.push(2, 'x');
  EXPECT_EQ(drained(queue), "x");
  queue.done(1);
  EXPECT_EQ(drained(queue), "c");
  queue.done(2);
  queue.done(1);
  queue.done(1);
  EXPECT_EQ(drained(queue), "d");
  queue.done(1);
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace sluice::executor
