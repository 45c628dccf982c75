#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <linux/kvm.h>

#include "executor/vmm/kvm.h"

namespace sluice::vmm {

// The registers at a point from which a program can be entered: after a system call (or before its
// first instruction). `regs` has RCX and R11 as the `syscall` instruction leaves them.
struct CpuState {
  kvm_regs regs;
  kvm_sregs sregs;
};

// A system call as the program made it.
struct Syscall {
  uint64_t number;
  uint64_t args[6];
};

// One thread of a program. While it does not run its registers are here, as of user mode.
struct Thread {
  uint32_t id = 1;
  uint64_t clear_id_address = 0;  // written and woken when it ends, for who joins it; 0: none

  // What it waits for. Either may be there; with neither it can run.
  uint64_t futex_address = 0;
  uint32_t futex_bits = 0;
  std::optional<int64_t> wake_at_ns;  // CLOCK_MONOTONIC
  int64_t late_result = 0;            // of its system call when that time has come

  // Where it waits for something to change: the call is served again then, until its time limit.
  bool retry = false;
  std::optional<int64_t> retry_until_ns;
  Syscall call{};

  bool in_syscall = false;  // RAX becomes `result` when it runs again
  int64_t result = 0;
  CpuState cpu{};
  XsaveArea xsave{};

  uint64_t blocked_signals = 0;
  uint64_t signal_stack_address = 0, signal_stack_bytes = 0;
  uint32_t signal_stack_flags = 2;  // SS_DISABLE
};

// The threads of a program, which take turns on its one vCPU. A value, part of the snapshot. It
// decides who runs; guest.cc moves the registers.
class Threads {
 public:
  Threads() : all_(1) {}

  const Thread& current() const { return all_[current_]; }
  Thread& current() { return all_[current_]; }
  // False between remove_current() and pick().
  bool has_current() const { return !current_gone_; }
  // What add() made last.
  Thread& newest() { return all_.back(); }
  size_t count() const { return all_.size(); }
  bool has(uint32_t id) const;

  // Adds one that can run; its number is new in the life of the program.
  Thread& add();
  // The current one waits from now on; without a time and an address it only yields.
  void wait(uint64_t futex_address, uint32_t futex_bits, std::optional<int64_t> wake_at_ns,
            int64_t late_result);
  // Takes the current one's wait() back.
  void stop_waiting();
  // Wakes at most `count` that wait there, with result 0; returns how many.
  int64_t wake(uint64_t futex_address, uint32_t bits, uint64_t count);
  // Lets at most `count` wait at another address instead.
  int64_t requeue(uint64_t from, uint64_t to, uint64_t count);
  // Ends the current one; there must be another. No thread is current until pick().
  void remove_current();

  // Makes the next that can run the current one, the present one last; false where all wait.
  bool pick(int64_t now_ns);
  // Whether another one than the current could run at some time without help.
  bool others_wait_for_turn() const;
  // When the first of those that wait for a time is due.
  std::optional<int64_t> earliest_wake_ns() const;

 private:
  std::vector<Thread> all_;
  size_t current_ = 0;
  bool current_gone_ = false;
  uint32_t last_id_ = 1;
};

}  // namespace sluice::vmm
