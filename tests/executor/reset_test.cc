// No call sees what another left behind (promise P4).

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

TEST(Reset, NothingOfACallIsLeftForTheNext) {
  Loaded guest("leftovers");
  for (int i = 0; i < 5; i++) {
    CallResult r = guest.call("SECRET-" + std::to_string(i));
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(r.output, "count 1\n") << "call " << i;
  }
}

TEST(Reset, NothingIsLeftByAnotherClone) {
  Loaded guest("leftovers");
  auto other = Sandbox::clone(machine(), guest.shared());
  ASSERT_TRUE(other);
  EXPECT_EQ(guest.call("SECRET-a").output, "count 1\n");
  EXPECT_EQ((*other)->call(bytes_of("SECRET-b")).output, "count 1\n");
  EXPECT_EQ(guest.call("SECRET-c").output, "count 1\n");
}

// Pages go from hot to cold and back: many calls with inputs of different sizes touch different
// pages, also by the host's writes alone.
TEST(Reset, HoldsWhilePagesBecomeHotAndCold) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  Loaded guest("leftovers"), echo("echo"), sort("/bin/busybox", {"sort"});
  for (int i = 0; i < 120; i++) {
    size_t size = i % 40 == 7 ? 200'000 + random() % 100'000 : random() % 5000;
    std::string input(size, '\n');
    std::generate(input.begin(), input.end(),
                  [&] { return static_cast<char>('a' + random() % 26); });
    CallResult r = echo.call(input);
    ASSERT_TRUE(r.output == input) << "call " << i;
    ASSERT_EQ(sort.call("b\na\n" + input + "\n").output.substr(0, 2), "a\n");
    if (i % 10 != 0) continue;
    ASSERT_EQ(guest.call("SECRET-" + std::to_string(i)).output, "count 1\n");
  }
  // After many small calls only what they touch is still copied back.
  for (int i = 0; i < 3 * kCoolAfterCalls; i++) echo.call("small");
  EXPECT_LT(echo.sandbox().hot_pages(), 60u);
}

TEST(Reset, AfterEveryOrdinaryFailureTheSandboxIsAsNew) {
  for (const char* how : {"exit", "abort", "socket", "flood-stdout", "hog-mmap"}) {
    Limits limits;
    limits.timeout_ms = 60'000;  // writing all of the memory takes long where the CPU is emulated
    limits.memory_bytes = 24 << 20;
    Loaded guest("misbehave", {how}, limits);
    CallResult first = guest.call();
    EXPECT_TRUE(guest.sandbox().ready()) << how;
    CallResult second = guest.call();
    EXPECT_EQ(first.ending.message, second.ending.message);
    EXPECT_EQ(first.exits, second.exits) << how;
  }
}

TEST(Reset, CrashesAndTimeoutsLeaveNoSandboxToReuse) {
  Limits limits;
  limits.timeout_ms = 50;
  for (const char* how : {"null", "loop", "cli"}) {
    Loaded guest("misbehave", {how}, limits);
    Sandbox& sandbox = guest.sandbox();
    sandbox.call(bytes_of("x"));
    EXPECT_FALSE(sandbox.ready()) << how;
  }
}

// A translation that a call left in a TLB or in KVM's shadow tables must not serve the next.
TEST(Reset, MappingsOfACallAreGoneForTheNext) {
  Loaded guest("misbehave", {"stale"});
  for (int i = 0; i < 3; i++) {
    EXPECT_EQ(guest.call("map").ending.outcome, Outcome::kOk);
    EXPECT_EQ(guest.call("map").ending.outcome, Outcome::kOk);
    CallResult r = guest.call("use");
    EXPECT_EQ(r.ending.outcome, Outcome::kException);
    EXPECT_NE(r.ending.message.find("a read at 0x2000000, not mapped"), std::string::npos)
        << r.ending.message;
  }
}

TEST(Reset, ThreadsShareASnapshot) {
  Loaded guest("leftovers");
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([&, t] {
      auto clone = Sandbox::clone(machine(), guest.shared());
      if (!clone) {
        wrong++;
        return;
      }
      for (int i = 0; i < 10; i++) {
        std::string input = "SECRET-" + std::to_string(t * 100 + i);
        if ((*clone)->call(bytes_of(input)).output != "count 1\n") wrong++;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace sluice::vmm
