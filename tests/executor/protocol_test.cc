// Programs that speak the function protocol, as far as the executor has a part in it.

#include <cstring>

#include "executor/vmm/watchdog.h"
#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

// A frame with this content; the first four bytes of an invocation are its version and flags, the
// next eight its deadline.
std::string frame(std::string_view content) {
  uint32_t length = static_cast<uint32_t>(content.size());
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += content;
  return bytes;
}

std::string invocation(std::string_view rest) {
  return frame(std::string(12, '\0') + std::string(rest));
}

// The answer of an echo without what the executor filled in.
std::string_view rest_of(const CallResult& r) { return std::string_view(r.output).substr(16); }

TEST(ProtocolTest, AnInvocationIsAnsweredInOneExit) {
  Loaded echo("protocol");
  ASSERT_TRUE(echo.snapshot().at_first_read());
  EXPECT_TRUE(echo.snapshot().speaks_protocol());
  for (int i = 0; i < 3; i++) {
    std::string body = "record " + std::to_string(i);
    CallResult r = echo.call(invocation(body));
    ASSERT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(rest_of(r), body);
    EXPECT_EQ(r.exits, 1u);
    EXPECT_TRUE(echo.sandbox().ready());
  }
}

TEST(ProtocolTest, AProgramThatReadsStdinDoesNotSpeakIt) {
  Loaded plain("echo");
  EXPECT_FALSE(plain.snapshot().speaks_protocol());
}

TEST(ProtocolTest, TheDeadlineIsThatOfTheCall) {
  Loaded echo("protocol", {}, {.timeout_ms = 3000});
  int64_t before = realtime_ns();
  CallResult r = echo.call(invocation("x"));
  int64_t after = realtime_ns();
  ASSERT_EQ(r.output.size(), 17u);
  int64_t deadline;
  std::memcpy(&deadline, r.output.data() + 8, sizeof deadline);
  EXPECT_GE(deadline, before + 3'000'000'000);
  EXPECT_LE(deadline, after + 3'000'000'000);
}

TEST(ProtocolTest, FramesMayGoInPieces) {
  Loaded pieces("protocol", {"pieces"});
  CallResult whole = Loaded("protocol").call(invocation("hello"));
  CallResult r = pieces.call(invocation("hello"));
  EXPECT_EQ(r.ending.outcome, Outcome::kOk);
  EXPECT_EQ(rest_of(r), rest_of(whole));
}

TEST(ProtocolTest, WaitingInPollIsWaitingForAnInvocation) {
  Loaded polls("protocol", {"poll"});
  EXPECT_TRUE(polls.snapshot().speaks_protocol());
  EXPECT_EQ(rest_of(polls.call(invocation("p"))), "p");
}

TEST(ProtocolTest, EachCallIsTheFirst) {
  Loaded counts("protocol", {"count"});
  for (int i = 0; i < 5; i++) {
    CallResult r = counts.call(invocation(""));
    ASSERT_EQ(r.output.size(), 8u);
    EXPECT_EQ(r.output[4], 1);
  }
}

TEST(ProtocolTest, WhatIsPrintedIsLog) {
  Loaded prints("protocol", {"print"});
  for (int i = 0; i < 2; i++) {
    CallResult r = prints.call(invocation("answer"));
    EXPECT_EQ(rest_of(r), "answer");
    EXPECT_EQ(r.log, "started\nto stdout\nto stderr\n");
  }
  Loaded cut("protocol", {"print"}, {.log_bytes = 3});
  CallResult r = cut.call(invocation("answer"));
  EXPECT_TRUE(r.log.starts_with("sta\n[log cut")) << r.log;
  EXPECT_LT(r.log.size(), 60u);
}

TEST(ProtocolTest, StdinIsEmpty) {
  Loaded reads("protocol", {"stdin"});
  EXPECT_EQ(reads.call(invocation("x")).ending.outcome, Outcome::kOk);
}

struct Breach {
  const char* how;
  Outcome outcome;
  const char* message;
};

class ProtocolBreach : public testing::TestWithParam<Breach> {};

TEST_P(ProtocolBreach, FailsTheCallAndSaysWhy) {
  Loaded program("protocol", {GetParam().how}, {.output_bytes = 100'000});
  for (int i = 0; i < 2; i++) {
    CallResult r = program.call(invocation("x"));
    EXPECT_EQ(r.ending.outcome, GetParam().outcome);
    EXPECT_NE(r.ending.message.find(GetParam().message), std::string::npos) << r.ending.message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ProtocolBreach,
    testing::Values(Breach{"again", Outcome::kBadAnswer, "before it answered"},
                    Breach{"silent", Outcome::kBadAnswer, "without an answer"},
                    Breach{"half", Outcome::kBadAnswer, "without an answer"},
                    Breach{"over", Outcome::kBadAnswer, "18 bytes, and its frame has 17"},
                    Breach{"fails", Outcome::kExitStatus, "exit status 3"},
                    Breach{"boasts", Outcome::kOutputLimit, "limit of 100000"}),
    [](const auto& info) { return info.param.how; });

TEST(ProtocolTest, AnAnswerAtTheLimitIsTaken) {
  std::string body(100, 'x');
  uint32_t whole = static_cast<uint32_t>(invocation(body).size());
  EXPECT_EQ(Loaded("protocol", {}, {.output_bytes = whole}).call(invocation(body)).ending.outcome,
            Outcome::kOk);
  EXPECT_EQ(
      Loaded("protocol", {}, {.output_bytes = whole - 1}).call(invocation(body)).ending.outcome,
      Outcome::kOutputLimit);
}

}  // namespace
}  // namespace sluice::vmm
