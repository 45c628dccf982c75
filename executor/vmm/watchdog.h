#pragma once

#include <cstdint>

#include <linux/kvm.h>

namespace sluice::vmm {

// CLOCK_MONOTONIC, in nanoseconds.
int64_t now_ns();
// CLOCK_THREAD_CPUTIME_ID, in nanoseconds.
int64_t thread_cpu_ns();
// CLOCK_REALTIME_COARSE, in nanoseconds: cheap, for times of files.
int64_t realtime_ns();

// Bounds the time that the calling thread spends in KVM_RUN. Each thread has a POSIX timer that
// signals that thread alone; the handler sets kvm_run::immediate_exit, so that a signal which falls
// between a check and KVM_RUN is not lost. The timer is set only when it would fire too late, not
// for every call, and an idle thread's timer fires at most once more. Uses the signal
// watchdog_signal().
class Watchdog {
 public:
  // While it lives, `run` is told to stop at `deadline_ns`. One at a time on a thread.
  Watchdog(kvm_run& run, int64_t deadline_ns);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Moves the time, also after it has passed.
  void set(int64_t deadline_ns);

  int64_t deadline_ns() const { return deadline_ns_; }
  bool expired() const { return now_ns() >= deadline_ns_; }

 private:
  kvm_run& run_;
  int64_t deadline_ns_;
};

int watchdog_signal();

}  // namespace sluice::vmm
