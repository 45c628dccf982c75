// What a call answers: outputs, outcomes, exits.

#include <algorithm>

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

TEST(Call, EmptyProgramTakesOneExit) {
  Loaded empty("empty");
  EXPECT_TRUE(empty.snapshot().at_first_read());
  EXPECT_EQ(empty.snapshot().warning(), "");
  for (int i = 0; i < 3; i++) {
    CallResult r = empty.call();
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(r.exits, 1u);
  }
}

TEST(Call, StaticPieRuns) {
  Loaded empty("empty_pie");
  EXPECT_TRUE(empty.snapshot().at_first_read());
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
    EXPECT_EQ(echo.call("body").output,
              "arg echo\narg show\narg two words\nenv A=1\nenv B=\nenv SLUICE_FD=3\nbody");
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
  EXPECT_FALSE(early.snapshot().at_first_read());
  EXPECT_NE(early.snapshot().warning().find("exit status 7"), std::string::npos)
      << early.snapshot().warning();
  for (int i = 0; i < 2; i++) EXPECT_EQ(early.call().ending.exit_status, 7);

  Loaded crash("misbehave", {"null", "early"});
  EXPECT_NE(crash.snapshot().warning().find("segmentation fault"), std::string::npos);
  EXPECT_EQ(crash.call().ending.outcome, Outcome::kException);
}

TEST(Call, LoopBeforeTheReadIsBoundedToo) {
  Limits limits;
  limits.timeout_ms = 50;
  Loaded loop("misbehave", {"loop", "early"}, limits);
  EXPECT_NE(loop.snapshot().warning().find("timeout of 50 ms"), std::string::npos);
  EXPECT_EQ(loop.call().ending.outcome, Outcome::kTimeout);
}

struct EndingCase {
  const char* how;
  Outcome outcome;
  const char* says;
};

class EndsBy : public testing::TestWithParam<EndingCase> {};

TEST_P(EndsBy, ReportsIt) {
  Limits limits;
  limits.timeout_ms = 2000;
  Loaded guest("misbehave", {GetParam().how}, limits);
  for (int i = 0; i < 2; i++) {
    CallResult r = guest.call();
    EXPECT_EQ(static_cast<int>(r.ending.outcome), static_cast<int>(GetParam().outcome))
        << r.ending.message;
    EXPECT_NE(r.ending.message.find(GetParam().says), std::string::npos) << r.ending.message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Program, EndsBy,
    testing::Values(EndingCase{"abort", Outcome::kSignal, "SIGABRT"},
                    EndingCase{"raise", Outcome::kSignal, "SIGTERM"},
                    EndingCase{"null", Outcome::kException, "a write at 0x0, a null pointer"},
                    EndingCase{"null-read", Outcome::kException, "a read at 0x8, a null pointer"},
                    EndingCase{"null-call", Outcome::kException, "vector 14) at rip 0x0"},
                    EndingCase{"ud2", Outcome::kException,
                               "invalid instruction (SIGILL, vector 6)"},
                    EndingCase{"divide", Outcome::kException, "division error (SIGFPE, vector 0)"},
                    EndingCase{"write-code", Outcome::kException, "mapped r-x"},
                    EndingCase{"execute-data", Outcome::kException, "execution at"},
                    EndingCase{"stack", Outcome::kException, "overflowed its 8192 KiB"},
                    EndingCase{"ptrace", Outcome::kForbiddenSyscall, "ptrace (101)"},
                    EndingCase{"socket", Outcome::kExitStatus, "exit status 97"},
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
  std::string first = fresh.call().output;
  std::string second = fresh.call().output;
  ASSERT_EQ(first.find(' '), 16u);
  EXPECT_NE(first.substr(0, 16), second.substr(0, 16)) << "getrandom";
  EXPECT_NE(first.substr(17, 16), second.substr(17, 16)) << "AT_RANDOM";
  EXPECT_LT(first.substr(34), second.substr(34)) << "clock";
  // And in two clones.
  Loaded other("fresh");
  EXPECT_NE(other.call().output.substr(0, 33), second.substr(0, 33));
}

}  // namespace
}  // namespace sluice::vmm
