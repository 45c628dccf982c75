#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::executor {

// How many sandboxes a function's calls ask for: arrival rate times service time, with headroom.
// Both are decaying averages, so what was longer ago counts less. Not thread-safe.
class Demand {
 public:
  explicit Demand(int64_t now_ns) : updated_ns_(now_ns) {}

  void arrived() { ++arrivals_; }
  // A call has ended that took so long, and slept for so much of it.
  void ended(int64_t service_ns, int64_t asleep_ns) {
    ++ended_;
    service_ns_ += static_cast<double>(service_ns);
    asleep_ns_ += static_cast<double>(asleep_ns);
  }

  // Takes what was counted since the last time into the averages.
  void update(int64_t now_ns);

  // Calls that are in a sandbox at the same time, on average: those that take a slot, and asleep.
  double awake() const;
  double asleep() const;
  // Sandboxes for that and for the peaks around it; no more for calls that are awake than may run,
  // which is `share`, nor in all than `limit`. 0 where there is no demand.
  size_t target(size_t share, size_t limit) const;

 private:
  // A sum over the last so many seconds, divided by a weight that decays like it.
  struct Average {
    void add(double value, double weight, double decay) {
      sum = sum * decay + value;
      base = base * decay + weight;
    }
    double value() const { return base > 0 ? sum / base : 0; }
    double sum = 0, base = 0;
  };

  double per_second() const;

  uint64_t arrivals_ = 0, ended_ = 0;  // since updated_ns_
  double service_ns_ = 0, asleep_ns_ = 0;
  int64_t updated_ns_;
  Average fast_, slow_;               // arrivals, by seconds
  Average awake_each_, asleep_each_;  // seconds, by calls
};

}  // namespace sluice::executor
