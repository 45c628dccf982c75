// Each limit of a process sandbox, at its edge and beyond.

#include <sys/socket.h>

#include "executor/process/limits.h"
#include "executor/vmm/limits.h"
#include "tests/executor/process_harness.h"

namespace sluice::process {
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
      EXPECT_TRUE(guest.sandbox().ready());
    }
  }
}

TEST(Limit, CpuTimeIsNotWallClock) {
  Limits limits;
  limits.cpu_ms = 100;
  limits.timeout_ms = 20'000;
  Loaded loop("misbehave", {"loop"}, limits);
  CallResult r = loop.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kCpuLimit) << r.ending.message;
  EXPECT_EQ(r.ending.message, "the program used more CPU time than its limit of 100 ms");
  limits.timeout_ms = 400;
  Loaded sleep("misbehave", {"sleep"}, limits);
  EXPECT_EQ(sleep.call().ending.outcome, Outcome::kTimeout);
}

// A program can be over before its init has read that the call began.
TEST(Wire, LastWordsAreHeardFromWhoDidNotListen) {
  auto pair = make_pair(SOCK_SEQPACKET);
  ASSERT_TRUE(pair);
  Report report;
  report.kind = Report::kEnded;
  ASSERT_TRUE(send_value(pair->theirs.get(), report));
  ASSERT_TRUE(send_value(pair->ours.get(), ControlRequest{}));
  pair->theirs.reset();
  std::vector<Fd> none;
  report.kind = Report::kFailed;
  EXPECT_TRUE(receive_value(pair->ours.get(), report, none));
  EXPECT_EQ(report.kind, Report::kEnded);
  EXPECT_FALSE(receive_value(pair->ours.get(), report, none));
}

TEST(Limit, CpuLimitDoesNotDisturbShortCalls) {
  Limits limits;
  limits.cpu_ms = 1000;
  Loaded empty("empty", {}, limits);
  for (int i = 0; i < 100; i++) {
    CallResult r = empty.call();
    ASSERT_EQ(r.ending.outcome, Outcome::kOk) << i << ": " << r.ending.message;
  }
}

// What an initialisation takes is not the call's.
TEST(Limit, CpuTimeOfTheInitialisationIsNotCounted) {
  Limits limits;
  limits.cpu_ms = 150;
  limits.timeout_ms = 10'000;
  Loaded spender("attack", {"spend-first", "300"}, limits);
  CallResult r = spender.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  EXPECT_EQ(r.output, "done\n");
}

TEST(Limit, MemoryRunsOutAsEnomemAndIsNamedWhenItIsTheCause) {
  Limits limits;
  limits.memory_bytes = 24 << 20;
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

TEST(Limit, OneRequestThatIsTooLargeIsNamed) {
  Limits limits;
  limits.memory_bytes = 64 << 20;
  CallResult r = Loaded("attack", {"request", "100000000"}, limits).call();
  EXPECT_EQ(r.ending.outcome, Outcome::kMemoryLimit) << r.ending.message;
  EXPECT_NE(r.ending.message.find("a request for 100"), std::string::npos) << r.ending.message;
  r = Loaded("attack", {"request", "30000000"}, limits).call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
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
  EXPECT_EQ(r.ending.message,
            "the program wrote more than its output limit of 1000 bytes to stdout");
  EXPECT_EQ(r.output.size(), 1000u);
  EXPECT_EQ(echo.call("fine").output, "fine");
  EXPECT_EQ(Loaded("misbehave", {"flood-stdout"}).call().ending.outcome, Outcome::kOutputLimit);
}

TEST(Limit, LogIsCutWithAMarkAndTheCallGoesOn) {
  Limits limits;
  limits.log_bytes = 10000;
  CallResult r = Loaded("misbehave", {"flood-stderr"}, limits).call();
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  EXPECT_EQ(r.log.substr(0, 10000), std::string(10000, 'x'));
  EXPECT_NE(r.log.find("cut"), std::string::npos);
  EXPECT_LT(r.log.size(), 10100u);
}

TEST(Limit, ThreadsAtTheLimit) {
  Limits limits;
  limits.threads = 5;
  CallResult r = Loaded("attack", {"threads"}, limits).call();
  EXPECT_EQ(r.output, "5 threads\n");
  EXPECT_EQ(r.ending.outcome, Outcome::kResourceLimit) << r.ending.message;
  EXPECT_EQ(r.ending.message,
            "the limit of 5 threads was reached; then the program ended with exit status 9");
}

TEST(Limit, OpenFilesAtTheLimit) {
  for (uint32_t open_files : {4u, 16u, 200u}) {
    Limits limits;
    limits.open_files = open_files;
    CallResult r = Loaded("attack", {"files"}, limits).call();
    EXPECT_EQ(r.output, std::to_string(open_files - 3) + " files\n");
    EXPECT_EQ(r.ending.outcome, Outcome::kResourceLimit) << r.ending.message;
    EXPECT_NE(r.ending.message.find(std::to_string(open_files) + " open files"), std::string::npos);
  }
}

TEST(Limit, TemporaryFilesAtTheLimit) {
  Limits limits;
  limits.tmpfs_bytes = 1 << 20;
  Loaded fill("attack", {"fill"}, limits);
  for (int i = 0; i < 2; i++) {
    CallResult r = fill.call();
    EXPECT_EQ(r.output, "1048576 bytes\n");
    EXPECT_EQ(r.ending.outcome, Outcome::kResourceLimit) << r.ending.message;
    EXPECT_NE(r.ending.message.find("1048576 bytes for temporary files"), std::string::npos);
  }
  limits.tmpfs_bytes = 0;
  EXPECT_EQ(Loaded("attack", {"fill"}, limits).call().output, "0 bytes\n");
}

TEST(Limit, RangesAreCheckedWhenAFunctionIsLoaded) {
  auto image = read_guest("empty");
  auto load = [&](auto change) {
    Limits limits;
    change(limits);
    return backend().load({.name = "empty", .image = image, .args = {"empty"}}, limits);
  };
  EXPECT_TRUE(load([](Limits& l) { l.memory_bytes = 2 << 20; }));
  EXPECT_FALSE(load([](Limits& l) { l.memory_bytes = vmm::kMemoryBytesMin - 1; }));
  EXPECT_FALSE(load([](Limits& l) { l.memory_bytes = vmm::kMemoryBytesMax + 1; }));
  EXPECT_FALSE(load([](Limits& l) { l.open_files = vmm::kOpenFilesMin - 1; }));
  EXPECT_TRUE(load([](Limits& l) { l.open_files = vmm::kOpenFilesMin; }));
  EXPECT_TRUE(load([](Limits& l) { l.open_files = vmm::kOpenFilesMax; }));
  EXPECT_FALSE(load([](Limits& l) { l.open_files = vmm::kOpenFilesMax + 1; }));
  EXPECT_FALSE(load([](Limits& l) { l.threads = 0; }));
  EXPECT_TRUE(load([](Limits& l) { l.threads = 1; }));
  EXPECT_TRUE(load([](Limits& l) { l.threads = kThreadsMax; }));
  EXPECT_FALSE(load([](Limits& l) { l.threads = kThreadsMax + 1; }));
  EXPECT_FALSE(load([](Limits& l) { l.cpu_ms = kCpuMsMax + 1; }));
  auto refused = load([](Limits& l) { l.timeout_ms = 0; });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalid);
  EXPECT_NE(refused.error().message.find("timeout_ms is 0"), std::string::npos);
}

TEST(Image, WhatCanNotBeRunIsRefusedWithTheRemedy) {
  auto refused = [&](std::vector<uint8_t> image, Limits limits = {}) {
    auto loaded = backend().load({.name = "x", .image = image, .args = {"x"}}, limits);
    EXPECT_FALSE(loaded);
    if (loaded) return std::string();
    EXPECT_EQ(loaded.error().code, Code::kInvalid) << loaded.error().message;
    return loaded.error().message;
  };
  auto script = bytes_of("#!/bin/sh\necho\n");
  EXPECT_NE(refused({script.begin(), script.end()}).find("script"), std::string::npos);
  EXPECT_NE(refused(read_guest("empty_dynamic")).find("-static"), std::string::npos);
  Limits tight;
  tight.memory_bytes = vmm::kMemoryBytesMin;
  EXPECT_NE(refused(read_guest("runtime"), tight).find("raise the limit"), std::string::npos);
  auto cut = read_guest("empty");
  for (size_t size : {0u, 1u, 63u, 64u, 200u, 5000u}) {
    EXPECT_NE(refused({cut.begin(), cut.begin() + static_cast<long>(size)}), "") << size;
  }
  auto other = read_guest("empty");
  other[18] = 183;
  EXPECT_NE(refused(other).find("another processor"), std::string::npos);
  // What only the kernel finds: an entry that it would not load.
  auto image = read_guest("empty");
  std::string long_argument(vmm::kArgumentBytesMax, 'a');
  auto loaded = backend().load({.name = "x", .image = image, .args = {"x", long_argument}}, {});
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kInvalid);
}

}  // namespace
}  // namespace sluice::process
