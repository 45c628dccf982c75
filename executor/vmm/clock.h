#pragma once

#include <cstdint>

#include "executor/vdso/clock_page.h"

namespace sluice::vmm {

// One moment by three clocks.
struct ClockSample {
  uint64_t tsc;  // the host's
  int64_t monotonic_ns, realtime_ns;
};
ClockSample sample_clocks();

// How fast this machine's time stamp counter goes. Measured against the system's clock from start()
// on, so the longer ago that was the better. From any thread.
class TscRate {
 public:
  // Where the counter does not go at one rate, or the system's clock does not go by it, false: then
  // programs ask for the time by system call.
  bool start();
  // Nanoseconds per tick, times 2^32.
  uint64_t ns_per_tick_32(const ClockSample& now) const;

 private:
  ClockSample first_{};
};

// Fills the page anew for `now`. `tsc_offset` is what the guest's counter is ahead of the host's.
// CLOCK_MONOTONIC never goes back for who read the page before.
void update_clock_page(ClockPage& page, const ClockSample& now, uint64_t tsc_offset,
                       uint64_t ns_per_tick_32);

}  // namespace sluice::vmm
