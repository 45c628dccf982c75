// Each limit, at its edge and beyond.

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

TEST(Limit, TimeoutEndsALoopAndTheNextCallWorks) {
  Limits limits;
  limits.timeout_ms = 100;
  for (const char* how : {"loop", "syscall-loop", "sleep", "wait"}) {
    Loaded guest("misbehave", {how}, limits);
    for (int i = 0; i < 2; i++) {
      CallResult r = guest.call();
      EXPECT_EQ(r.ending.outcome, Outcome::kTimeout) << how << ": " << r.ending.message;
      EXPECT_EQ(r.ending.message, "the program ran longer than its timeout of 100 ms");
      EXPECT_GE(r.run_us, 100'000u);
      EXPECT_LT(r.run_us, 5'000'000u);
      EXPECT_FALSE(guest.snapshot().warning().size());
    }
  }
}

// The watchdog's timer stays set from a call with a long limit; a shorter one must not wait for it,
// and a timer left over from a short one must not end a longer call.
TEST(Limit, TimeoutsOfDifferentLengthsDoNotDisturbEachOther) {
  Limits brief, patient;
  brief.timeout_ms = 60;
  patient.timeout_ms = 400;
  Loaded a("misbehave", {"loop"}, brief), b("misbehave", {"loop"}, patient), empty("empty");
  EXPECT_EQ(empty.call().ending.outcome, Outcome::kOk);  // sets 5 s
  CallResult r = a.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kTimeout);
  EXPECT_LT(r.run_us, 2'000'000u);
  r = b.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kTimeout);
  EXPECT_GE(r.run_us, 400'000u);
  EXPECT_EQ(empty.call().ending.outcome, Outcome::kOk);
}

// The timer may fire anywhere: in the guest, in a system call, just before KVM_RUN.
TEST(Limit, ShortTimeoutsAreNeverLost) {
  Limits limits;
  limits.timeout_ms = 2;
  Loaded guest("misbehave", {"syscall-loop"}, limits);
  for (int i = 0; i < 150; i++) {
    CallResult r = guest.call();
    ASSERT_EQ(r.ending.outcome, Outcome::kTimeout) << i;
    ASSERT_LT(r.run_us, 2'000'000u) << i;
  }
}

TEST(Limit, MemoryRunsOutAsEnomemAndIsNamedWhenItIsTheCause) {
  Limits limits;
  limits.memory_bytes = 24 << 20;
  limits.timeout_ms = 60'000;
  for (const char* how : {"hog", "hog-mmap"}) {
    Loaded hog("misbehave", {how}, limits);
    for (int i = 0; i < 2; i++) {
      CallResult r = hog.call();
      EXPECT_EQ(r.ending.outcome, Outcome::kMemoryLimit) << how << ": " << r.ending.message;
      EXPECT_NE(r.ending.message.find("memory limit of 25165824 bytes"), std::string::npos)
          << r.ending.message;
    }
  }
  Loaded polite("misbehave", {"hog-quietly"}, limits);
  CallResult r = polite.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  EXPECT_EQ(r.output, "full");
}

TEST(Limit, OutputAtTheLimitPassesAndBeyondEndsTheCall) {
  Limits limits;
  limits.output_bytes = 1000;
  Loaded echo("echo", {}, limits);
  for (size_t size : {999, 1000}) {
    CallResult r = echo.call(std::string(size, 'x'));
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << size;
    EXPECT_EQ(r.output.size(), size);
  }
  CallResult r = echo.call(std::string(1001, 'x'));
  EXPECT_EQ(r.ending.outcome, Outcome::kOutputLimit);
  EXPECT_NE(r.ending.message.find("1000 bytes"), std::string::npos);
  EXPECT_EQ(echo.call("fine").output, "fine");

  Loaded flood("misbehave", {"flood-stdout"});
  EXPECT_EQ(flood.call().ending.outcome, Outcome::kOutputLimit);
}

TEST(Limit, LogIsCutWithAMarkAndTheCallGoesOn) {
  Limits limits;
  limits.log_bytes = 10000;
  Loaded flood("misbehave", {"flood-stderr"}, limits);
  CallResult r = flood.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  EXPECT_EQ(r.log.substr(0, 10000), std::string(10000, 'x'));
  EXPECT_NE(r.log.find("cut"), std::string::npos);
  EXPECT_LT(r.log.size(), 10100u);
}

TEST(Limit, RangesAreCheckedWhenAFunctionIsLoaded) {
  auto image = read_guest("empty");
  auto load = [&](Limits limits) {
    return Snapshot::load(machine(), {.name = "empty", .image = image, .args = {"empty"}}, limits);
  };
  Limits limits;
  limits.memory_bytes = kMemoryBytesMin - 1;
  EXPECT_FALSE(load(limits));
  limits.memory_bytes = kMemoryBytesMax + 1;
  EXPECT_FALSE(load(limits));
  limits = {};
  limits.timeout_ms = 0;
  ASSERT_FALSE(load(limits));
  EXPECT_NE(load(limits).error().message.find("timeout_ms is 0"), std::string::npos);
  limits = {};
  limits.open_files = kOpenFilesMin - 1;
  EXPECT_FALSE(load(limits));
  // The smallest that a static glibc program fits into, and what does not fit any more.
  limits = {};
  limits.memory_bytes = 2 << 20;
  EXPECT_TRUE(load(limits));
  limits.memory_bytes = kMemoryBytesMin;
  auto image_too_large = read_guest("runtime");
  auto refused = Snapshot::load(
      machine(), {.name = "runtime", .image = image_too_large, .args = {"r"}}, limits);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("raise the limit"), std::string::npos);
}

TEST(Limit, ArgumentsThatDoNotFitAreRefused) {
  auto image = read_guest("empty");
  Program program{
      .name = "empty", .image = image, .args = {"empty", std::string(kArgumentBytesMax, 'a')}};
  auto refused = Snapshot::load(machine(), program, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalid);
}

}  // namespace
}  // namespace sluice::vmm
