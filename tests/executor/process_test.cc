// The contract of functions holds in jailed processes: outputs, outcomes, fresh state, limits.

#include <algorithm>
#include <thread>

#include "executor/process/limits.h"
#include "executor/vmm/limits.h"
#include "tests/executor/process_harness.h"

namespace sluice::process {
namespace {

TEST(Call, EmptyProgramWaitsForItsInput) {
  Loaded empty("empty");
  EXPECT_TRUE(empty.image().at_first_read());
  EXPECT_FALSE(empty.image().speaks_protocol());
  EXPECT_EQ(empty.image().warning(), "");
  for (int i = 0; i < 3; i++) {
    CallResult r = empty.call();
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(r.exits, 0u);
    EXPECT_EQ(r.dirty_pages, 0u);
  }
}

TEST(Call, StaticPieRuns) {
  Loaded empty("empty_pie");
  EXPECT_EQ(empty.call().ending.outcome, Outcome::kOk);
}

TEST(Call, EchoesInputOfEverySize) {
  Loaded echo("echo");
  for (size_t size : {0, 1, 4095, 4096, 65535, 65536, 65537, 3'000'000}) {
    std::string input(size, 'a');
    for (size_t i = 0; i < size; i++) input[i] = static_cast<char>(i * 31 + i / 251);
    CallResult r = echo.call(input);
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_TRUE(r.output == input) << size;
    EXPECT_EQ(r.log, std::to_string(size) + " bytes");
  }
}

TEST(Call, ArgumentsEnvironmentAndEarlyOutputAreInEveryResult) {
  Loaded echo("echo", {"show", "two words"}, {}, {"A=1", "B="});
  for (int i = 0; i < 2; i++) {
    EXPECT_EQ(echo.call("body").output, "arg echo\narg show\narg two words\nenv A=1\nenv B=\nbody");
  }
}

TEST(Call, ExitStatusIsReported) {
  Loaded exit("misbehave", {"exit"});
  CallResult r = exit.call();
  EXPECT_EQ(r.ending.outcome, Outcome::kExitStatus);
  EXPECT_EQ(r.ending.exit_status, 7);
  EXPECT_EQ(r.ending.message, "the program ended with exit status 7");
  EXPECT_TRUE(exit.sandbox().ready());
}

TEST(Call, ProgramThatEndsBeforeItReadsIsRunFromItsStart) {
  Loaded early("misbehave", {"exit", "early"});
  EXPECT_FALSE(early.image().at_first_read());
  EXPECT_NE(early.image().warning().find("exit status 7"), std::string::npos)
      << early.image().warning();
  for (int i = 0; i < 2; i++) EXPECT_EQ(early.call().ending.exit_status, 7);
}

TEST(Call, LoopBeforeTheReadIsBoundedToo) {
  Limits limits;
  limits.timeout_ms = 50;
  Loaded loop("misbehave", {"loop", "early"}, limits);
  EXPECT_NE(loop.image().warning().find("timeout of 50 ms"), std::string::npos);
  EXPECT_EQ(loop.call().ending.outcome, Outcome::kTimeout);
}

struct EndingCase {
  const char* how;
  Outcome outcome;
  const char* says;
};

class EndsBy : public testing::TestWithParam<EndingCase> {};

TEST_P(EndsBy, ReportsIt) {
  Loaded guest("misbehave", {GetParam().how});
  for (int i = 0; i < 2; i++) {
    CallResult r = guest.call();
    EXPECT_EQ(static_cast<int>(r.ending.outcome), static_cast<int>(GetParam().outcome))
        << r.ending.message;
    EXPECT_NE(r.ending.message.find(GetParam().says), std::string::npos) << r.ending.message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Program, EndsBy,
    testing::Values(EndingCase{"abort", Outcome::kSignal, "ended itself by SIGABRT"},
                    EndingCase{"raise", Outcome::kSignal, "ended itself by SIGTERM"},
                    EndingCase{"null", Outcome::kException, "segmentation fault (SIGSEGV)"},
                    EndingCase{"ud2", Outcome::kException, "invalid instruction (SIGILL)"},
                    EndingCase{"divide", Outcome::kException, "(SIGFPE)"},
                    EndingCase{"int3", Outcome::kException, "breakpoint (SIGTRAP)"},
                    EndingCase{"write-code", Outcome::kException, "SIGSEGV"},
                    EndingCase{"stack", Outcome::kException, "SIGSEGV"},
                    EndingCase{"socket", Outcome::kForbiddenSyscall,
                               "the program made the system call socket (41), which functions may "
                               "not use"},
                    EndingCase{"exec", Outcome::kForbiddenSyscall, "execve (59)"},
                    EndingCase{"fork", Outcome::kForbiddenSyscall, "clone (56)"},
                    EndingCase{"unknown-syscall", Outcome::kForbiddenSyscall, "unknown (99999)"}),
    [](const auto& info) {
      std::string name = info.param.how;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST(Call, RandomnessAndTimeAreFreshInEveryCall) {
  Loaded fresh("fresh");
  std::string first = fresh.call().output, second = fresh.call().output;
  ASSERT_EQ(first.find(' '), 16u);
  EXPECT_NE(first.substr(0, 16), second.substr(0, 16)) << "getrandom";
  EXPECT_NE(first.substr(17, 16), second.substr(17, 16)) << "AT_RANDOM";
  EXPECT_LT(first.substr(34), second.substr(34)) << "clock";
}

TEST(Call, NothingThatACallLeavesIsSeenByTheNext) {
  Loaded leftovers("leftovers");
  EXPECT_TRUE(leftovers.image().at_first_read());
  for (int i = 0; i < 5; i++) {
    CallResult r = leftovers.call("SECRET of a call");
    EXPECT_EQ(r.output, "count 1\n") << r.ending.message;
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
  }
}

TEST(Call, ThreadsShareAnImage) {
  Loaded echo("echo");
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      auto sandbox = echo.image().clone();
      ASSERT_TRUE(sandbox) << sandbox.error().message;
      for (int i = 0; i < 10; i++) {
        std::string input = std::to_string(t) + "/" + std::to_string(i);
        EXPECT_EQ((*sandbox)->call(bytes_of(input)).output, input);
      }
    });
  }
}

TEST(Stdio, DeviceNamesAreTheStreams) {
  Loaded cat("/bin/busybox", {"cat", "/dev/stdin"});
  CallResult c = cat.call("by its name");
  EXPECT_EQ(c.output, "by its name") << c.ending.message << c.log;
  EXPECT_EQ(cat.call("again").output, "again");
  Loaded tee("/bin/busybox", {"tee", "/dev/stderr"});
  CallResult r = tee.call("to both");
  EXPECT_EQ(r.output, "to both") << r.ending.message;
  EXPECT_EQ(r.log, "to both");
}

std::string frame_of(const std::string& body) {
  uint32_t bytes = static_cast<uint32_t>(body.size());
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + body;
}

TEST(Protocol, FrameIsAnsweredByAFrame) {
  Loaded echo("frames");
  EXPECT_TRUE(echo.image().at_first_read());
  EXPECT_TRUE(echo.image().speaks_protocol());
  for (size_t size : {10u, 65536u, 2'000'000u}) {
    std::string frame = frame_of(std::string(size, 'f'));
    CallResult r = echo.call(frame);
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_TRUE(r.output == frame) << r.output.size();
    EXPECT_EQ(r.log, "started\ncall 1 of " + std::to_string(size) + " bytes\n");
  }
}

TEST(Protocol, AnswerAtTheOutputLimitPassesAndBeyondEndsTheCall) {
  Limits limits;
  limits.output_bytes = 1000;
  Loaded echo("frames", {}, limits);
  for (size_t size : {999u, 1000u}) {
    CallResult r = echo.call(frame_of(std::string(size - 4, 'f')));
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(r.output.size(), size);
  }
  CallResult r = echo.call(frame_of(std::string(997, 'f')));
  EXPECT_EQ(r.ending.outcome, Outcome::kOutputLimit) << r.ending.message;
  EXPECT_NE(r.ending.message.find("1000 bytes"), std::string::npos);
  EXPECT_EQ(Loaded("frames", {"huge"}).call(frame_of("x")).ending.outcome, Outcome::kOutputLimit);
}

TEST(Protocol, EndWithoutAnAnswerIsABadOneUnlessItHasAnOutcomeOfItsOwn) {
  for (const char* how : {"silent", "fail", "half"}) {
    CallResult r = Loaded("frames", {how}).call(frame_of("x"));
    EXPECT_EQ(r.ending.outcome, Outcome::kBadAnswer) << how << ": " << r.ending.message;
    EXPECT_NE(r.ending.message.find("without an answer"), std::string::npos);
    EXPECT_EQ(r.output, "");
  }
  CallResult r = Loaded("frames", {"early"}).call(frame_of("x"));
  EXPECT_EQ(r.ending.outcome, Outcome::kBadAnswer) << r.ending.message;
  EXPECT_NE(r.ending.message.find("before it was called"), std::string::npos) << r.ending.message;
  EXPECT_EQ(Loaded("frames", {"crash"}).call(frame_of("x")).ending.outcome, Outcome::kSignal);
  Limits limits;
  limits.timeout_ms = 100;
  EXPECT_EQ(Loaded("frames", {"loop"}, limits).call(frame_of("x")).ending.outcome,
            Outcome::kTimeout);
}

}  // namespace
}  // namespace sluice::process
