// Programs that attack the VMM: each may fail its own call, and the next one works.

#include <algorithm>
#include <filesystem>
#include <random>
#include <set>

#include <sys/syscall.h>

#include "executor/vmm/syscalls.h"
#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

class Attack : public testing::TestWithParam<const char*> {};

TEST_P(Attack, FailsItsOwnCallOnly) {
  Limits limits;
  limits.timeout_ms = 2000;
  Loaded guest("misbehave", {GetParam()}, limits);
  for (int i = 0; i < 2; i++) {
    CallResult r = guest.call();
    EXPECT_EQ(static_cast<int>(r.ending.outcome), static_cast<int>(Outcome::kException))
        << r.ending.message;
    EXPECT_NE(r.ending.message, "");
  }
  Loaded neighbour("echo");
  EXPECT_EQ(neighbour.call("still here").output, "still here");
}

INSTANTIATE_TEST_SUITE_P(Guest, Attack,
                         testing::Values("int3", "int14", "int80", "hlt", "cli", "in",
                                         "out-exception", "out-other", "out-syscall", "outs",
                                         "stub", "stub-bad-return", "kernel-read", "kernel-stack",
                                         "bad-stack", "noncanonical", "single-step",
                                         "single-step-syscall", "nested-task", "rdmsr",
                                         "use-after-unmap", "write-after-protect"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Hostile, HugeAndWildArgumentsAreRefused) {
  Loaded guest("misbehave", {"huge-write"});
  CallResult r = guest.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
}

TEST(Hostile, HugeMadviseDoesNotOutliveTheTimeout) {
  Limits limits;
  limits.timeout_ms = 300;
  Loaded guest("misbehave", {"huge-madvise"}, limits);
  CallResult r = guest.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kTimeout) << r.ending.message;
  EXPECT_LT(r.run_us, 3'000'000u);
}

// What the storm may call: all that is allowed and does not end or hold up the program at once.
std::string storm_numbers() {
  const std::set<long> left_out = {SYS_exit,   SYS_exit_group, SYS_kill,           SYS_tkill,
                                   SYS_tgkill, SYS_nanosleep,  SYS_clock_nanosleep};
  std::string text;
  for (const SyscallRule& rule : SyscallTable::rules()) {
    if (!left_out.contains(static_cast<long>(rule.number))) {
      text += " " + std::to_string(rule.number);
    }
  }
  return text;
}

size_t open_descriptors() {
  auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// Each allowed call with arguments that point beside, across and into everything. A storm may take
// its own program's memory and descriptors away, start threads, crash it or make it wait for ever;
// the host, the next call and the neighbour notice nothing.
TEST(Hostile, SystemCallsWithHostileArgumentsHurtNobodyElse) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  Limits limits;
  limits.timeout_ms = 200;
  limits.memory_bytes = 16 << 20;
  Loaded storm("storm", {}, limits);
  Loaded neighbour("leftovers");
  ASSERT_EQ(neighbour.call("SECRET").output, "count 1\n");
  std::string numbers = storm_numbers();
  storm.call("1 1" + numbers);
  size_t descriptors = open_descriptors();
  for (int i = 0; i < 60; i++) {
    CallResult r = storm.call(std::to_string(random()) + " 300" + numbers);
    EXPECT_NE(r.ending.outcome, Outcome::kInternal) << r.ending.message;
    EXPECT_NE(r.ending.outcome, Outcome::kUnavailable) << r.ending.message;
    EXPECT_LT(r.run_us, 5'000'000u);
    if (i % 10 == 0) {
      EXPECT_EQ(neighbour.call("SECRET").output, "count 1\n");
    }
  }
  // A single harmless call finds everything as it was.
  EXPECT_EQ(storm.call("1 0" + numbers).output, "done");
  EXPECT_LE(open_descriptors(), descriptors + 8);  // of a sandbox that was made anew
}

// One number at a time, allowed or not, known or not.
TEST(Hostile, EverySystemCallNumberEndsItsOwnCallAtMost) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  Limits limits;
  limits.timeout_ms = 20;
  Loaded storm("storm", {}, limits);
  for (int number = 0; number < 600; number++) {
    CallResult r =
        storm.call(std::to_string(random()) + " 3 " + std::to_string(number == 599 ? -1 : number));
    EXPECT_NE(r.ending.outcome, Outcome::kInternal) << number << ": " << r.ending.message;
    EXPECT_NE(r.ending.outcome, Outcome::kUnavailable) << number << ": " << r.ending.message;
  }
  EXPECT_EQ(storm.call("1 0 39").output, "done");
}

}  // namespace
}  // namespace sluice::vmm
