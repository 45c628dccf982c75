#include "executor/vmm/clock.h"

#include <algorithm>
#include <ctime>

#include <cpuid.h>
#include <x86intrin.h>

namespace sluice::vmm {
namespace {

__extension__ using uint128 = unsigned __int128;

constexpr int64_t kFirstMeasureNs = 2'000'000;

int64_t ns_of(const timespec& t) { return t.tv_sec * 1'000'000'000ll + t.tv_nsec; }

bool has_invariant_tsc() {
  uint32_t a, b, c, d;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & 1u << 8) != 0;
}

}  // namespace

ClockSample sample_clocks() {
  timespec monotonic, realtime;
  clock_gettime(CLOCK_MONOTONIC, &monotonic);
  uint64_t tsc = __rdtsc();
  clock_gettime(CLOCK_REALTIME, &realtime);
  return {tsc, ns_of(monotonic), ns_of(realtime)};
}

bool TscRate::start() {
  if (!has_invariant_tsc()) return false;
  first_ = sample_clocks();
  ClockSample now;
  do {
    now = sample_clocks();
  } while (now.monotonic_ns - first_.monotonic_ns < kFirstMeasureNs);
  return now.tsc > first_.tsc;
}

uint64_t TscRate::ns_per_tick_32(const ClockSample& now) const {
  auto ns = static_cast<uint128>(now.monotonic_ns - first_.monotonic_ns);
  return static_cast<uint64_t>((ns << 32) / (now.tsc - first_.tsc));
}

void update_clock_page(ClockPage& page, const ClockSample& now, uint64_t tsc_offset,
                       uint64_t ns_per_tick_32) {
  uint64_t tsc = now.tsc + tsc_offset;
  int64_t monotonic_ns = now.monotonic_ns;
  if (page.usable != 0 && tsc > page.tsc) {
    auto told = static_cast<uint128>(tsc - page.tsc) * page.ns_per_tick_32 >> 32;
    monotonic_ns = std::max(monotonic_ns, page.monotonic_ns + static_cast<int64_t>(told));
  }
  page.sequence++;
  page.usable = 1;
  page.tsc = tsc;
  page.monotonic_ns = monotonic_ns;
  page.realtime_ns = now.realtime_ns;
  page.ns_per_tick_32 = ns_per_tick_32;
}

}  // namespace sluice::vmm
