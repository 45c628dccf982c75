// Threads take turns on one vCPU, and are part of a snapshot.

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

std::string run(const std::string& how, std::string_view input, int calls = 3) {
  Loaded guest("threads", {how});
  std::string output;
  for (int i = 0; i < calls; i++) {
    CallResult r = guest.call(input);
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message << " " << r.log;
    EXPECT_TRUE(i == 0 || output == r.output) << "call " << i << ": " << r.output;
    output = r.output;
  }
  return output;
}

TEST(ThreadsTest, AreStartedJoinedAndHaveTheirOwnStorage) {
  EXPECT_EQ(run("sum", "1"), "1000 1000 0\n");
  EXPECT_EQ(run("sum", "8"), "8000 8028 0\n");
}

TEST(ThreadsTest, WaitForEachOther) { EXPECT_EQ(run("turns", "x"), "80\n"); }

TEST(ThreadsTest, TakeTurnsWithoutSystemCalls) { EXPECT_EQ(run("spin", "x"), "spun 1\n"); }

TEST(ThreadsTest, OfTheSnapshotServeEveryCall) {
  Loaded guest("threads", {"pool"});
  EXPECT_EQ(guest.call("7").output, "49\n");
  EXPECT_EQ(guest.call("9").output, "81\n");
}

TEST(ThreadsTest, InterruptedByTheSnapshotGoOnInEveryCall) {
  EXPECT_EQ(run("spun", "x"), "spun 1\n");
}

TEST(ThreadsTest, SleepAtTheSameTime) {
  Loaded guest("threads", {"sleep"});
  CallResult r = guest.call("20");
  EXPECT_EQ(r.output, "slept\n");
  EXPECT_GE(r.run_us, 20'000u);
  EXPECT_LT(r.run_us, 20 * 20'000u);
}

TEST(ThreadsTest, WaitsEndInTime) { EXPECT_EQ(run("timed", "x"), "Connection timed out\n"); }

TEST(ThreadsTest, WakeEachOtherThroughPipesAndEpoll) { EXPECT_EQ(run("pipes", "20"), "420 3\n"); }

TEST(ThreadsTest, APipeIsBounded) {
  EXPECT_EQ(run("full", "x"), "65536 -1 Resource temporarily unavailable\n-1 Broken pipe\n");
}

TEST(ThreadsTest, TheProgramEndsWithItsLastThread) {
  Loaded guest("threads", {"leave"});
  CallResult r = guest.call("x");
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  EXPECT_GE(r.run_us, 20'000u);
}

TEST(ThreadsTest, ADeadlockEndsByTheTimeout) {
  Loaded guest("threads", {"stuck"}, {.timeout_ms = 100});
  EXPECT_EQ(guest.call("x").ending.outcome, Outcome::kTimeout);
}

TEST(ThreadsTest, TheLimitIsNamed) {
  Loaded enough("threads", {"sum"}, {.threads = 9});
  EXPECT_EQ(enough.call("8").ending.outcome, Outcome::kOk);
  Loaded few("threads", {"sum"}, {.threads = 8});
  EXPECT_EQ(few.call("7").ending.outcome, Outcome::kOk);
  CallResult r = few.call("8");
  EXPECT_EQ(r.ending.outcome, Outcome::kResourceLimit);
  EXPECT_NE(r.ending.message.find("limit of 8 threads"), std::string::npos) << r.ending.message;
  EXPECT_EQ(few.call("7").ending.outcome, Outcome::kOk);
}

}  // namespace
}  // namespace sluice::vmm
