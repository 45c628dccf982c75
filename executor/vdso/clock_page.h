// What the VMM tells programs about time: read by the vDSO (in the guest), written by clock.cc. C,
// for both.
#ifndef SLUICE_EXECUTOR_VDSO_CLOCK_PAGE_H_
#define SLUICE_EXECUTOR_VDSO_CLOCK_PAGE_H_

#include <stdint.h>

// The page's address in every program; layout.h asserts that it is the page it should be.
#define SLUICE_CLOCK_PAGE 0x7fffc0007000

struct ClockPage {
  uint32_t sequence;        // changes with the rest
  uint32_t usable;          // 0: ask by system call
  uint64_t tsc;             // the guest's time stamp counter when it was
  int64_t monotonic_ns;     // this time by CLOCK_MONOTONIC,
  int64_t realtime_ns;      // and this by CLOCK_REALTIME
  uint64_t ns_per_tick_32;  // how fast the counter goes, times 2^32
};

#endif  // SLUICE_EXECUTOR_VDSO_CLOCK_PAGE_H_
