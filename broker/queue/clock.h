#pragma once

#include <chrono>
#include <cstdint>

namespace sluice::broker {

// The time, in ms. Tests put their own in its place, and so wait for nothing.
class Clock {
 public:
  virtual ~Clock() = default;

  // Since the epoch; may jump. For what is stored and has to mean the same after a restart.
  virtual int64_t wall_ms() const { return since_start<std::chrono::system_clock>(); }
  // Since some time; never jumps. For how long something took.
  virtual int64_t steady_ms() const { return since_start<std::chrono::steady_clock>(); }

  static const Clock& machine() {
    static const Clock clock;
    return clock;
  }

 private:
  template <typename Source>
  static int64_t since_start() {
    auto now = Source::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  }
};

}  // namespace sluice::broker
