#pragma once

#include <cstdint>
#include <ctime>

namespace sluice::executor {

// Where the pools take the time from; a test puts its own in its place. From any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t now_ns() const = 0;
};

// CLOCK_MONOTONIC.
class SteadyClock : public Clock {
 public:
  int64_t now_ns() const override {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
  }
};

}  // namespace sluice::executor
