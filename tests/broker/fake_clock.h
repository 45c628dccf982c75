#pragma once

#include "broker/queue/clock.h"

namespace sluice::broker {

// A clock that stands still until the test moves it.
class FakeClock : public Clock {
 public:
  int64_t wall = 1'700'000'000'000;
  int64_t steady = 1'000;

  int64_t wall_ms() const override { return wall; }
  int64_t steady_ms() const override { return steady; }

  void pass(int64_t ms) {
    wall += ms;
    steady += ms;
  }
};

}  // namespace sluice::broker
