// What programs are told of the time.

#include <cstdlib>

#include "executor/vmm/watchdog.h"
#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

TEST(ClockTest, IsTrueNeverGoesBackAndCostsNoExit) {
  Loaded guest("clocks");
  for (int i = 0; i < 3; i++) {
    int64_t before = realtime_ns();
    CallResult r = guest.call("x");
    int64_t after = realtime_ns();
    ASSERT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    // A number alone: nothing was wrong.
    EXPECT_EQ(r.output.find_first_not_of("0123456789"), std::string::npos) << r.output;
    // The coarse clock that this test reads lags by a tick.
    int64_t told = std::atoll(r.output.c_str());
    EXPECT_GE(told, before - 20'000'000);
    EXPECT_LE(told, after + 20'000'000);
    // Three sleeps, a write and the end.
    EXPECT_TRUE(machine().tsc_source() == TscSource::kUnknown || r.exits <= 8) << r.exits;
  }
}

TEST(ClockTest, ThePageNeverTakesBackWhatItTold) {
  ClockPage page = {};
  const uint64_t rate = 1ull << 32;  // a tick a nanosecond
  update_clock_page(page, {.tsc = 1000, .monotonic_ns = 5000, .realtime_ns = 70}, 10, rate);
  EXPECT_EQ(page.tsc, 1010u);
  EXPECT_EQ(page.monotonic_ns, 5000);
  // By the page it is 5500 now, by the system's clock 5490.
  update_clock_page(page, {.tsc = 1500, .monotonic_ns = 5490, .realtime_ns = 560}, 10, rate);
  EXPECT_EQ(page.monotonic_ns, 5500);
  EXPECT_EQ(page.realtime_ns, 560);
  update_clock_page(page, {.tsc = 2000, .monotonic_ns = 6100, .realtime_ns = 900}, 10, rate);
  EXPECT_EQ(page.monotonic_ns, 6100);
}

CallResult limited(const char* how, Limits limits) {
  Loaded guest("clocks", {how}, limits);
  CallResult first = guest.call("x");
  CallResult second = guest.call("x");
  EXPECT_EQ(first.ending.message, second.ending.message);
  return second;
}

TEST(ClockTest, CpuTimeIsLimitedApartFromTheWallClock) {
  CallResult r = limited("spin", {.timeout_ms = 20'000, .cpu_ms = 60});
  EXPECT_EQ(r.ending.outcome, Outcome::kCpuLimit);
  EXPECT_NE(r.ending.message.find("CPU time than its limit of 60 ms"), std::string::npos);
  EXPECT_GE(r.run_us, 60'000u);
  // Sleeping takes none.
  EXPECT_EQ(limited("", {.cpu_ms = 5000}).ending.outcome, Outcome::kOk);
}

TEST(LimitNames, FilesAndTheirBytes) {
  CallResult files = limited("files", {.open_files = 10});
  EXPECT_EQ(files.ending.outcome, Outcome::kResourceLimit);
  EXPECT_NE(files.ending.message.find("limit of 10 open files"), std::string::npos)
      << files.ending.message;
  CallResult full = limited("fill", {.tmpfs_bytes = 100'000});
  EXPECT_EQ(full.ending.outcome, Outcome::kResourceLimit);
  EXPECT_NE(full.ending.message.find("limit of 100000 bytes"), std::string::npos)
      << full.ending.message;
}

}  // namespace
}  // namespace sluice::vmm
