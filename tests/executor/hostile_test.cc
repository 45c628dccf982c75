// Programs that attack the VMM: each may fail its own call, and the next one works.

#include <algorithm>

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

}  // namespace
}  // namespace sluice::vmm
