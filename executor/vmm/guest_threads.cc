// A program's threads on its one vCPU: moving registers in and out, turns, and waiting while nobody
// can run. A thread that does not run is kept as of user mode, wherever it was stopped.

#include <algorithm>
#include <ctime>

#include "executor/vmm/guest.h"
#include "executor/vmm/limits.h"

namespace sluice::vmm {

// Registers as they are once the system call that the vCPU stands in has returned, or where it was
// interrupted in user mode.
Expected<void> Guest::save_thread(Thread& thread) {
  thread.cpu = cpu_state();
  kvm_regs& r = thread.cpu.regs;
  if (thread.in_syscall) {
    r.rip = r.rcx;
    r.rflags = (r.r11 & kRflagsUser) | kRflagsFixed | kRflagsIf;
  }
  set_user_mode(thread.cpu.sregs);
  auto xsave = vm_->xsave();
  if (!xsave) return std::unexpected(xsave.error());
  thread.xsave = resumable_xsave(*xsave, machine_.xcr0());
  return {};
}

Expected<void> Guest::load_thread(const Thread& thread) {
  kvm_run& run = vm_->run();
  run.s.regs.regs = thread.cpu.regs;
  if (thread.in_syscall) run.s.regs.regs.rax = static_cast<uint64_t>(thread.result);
  run.s.regs.sregs = thread.cpu.sregs;
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  kernel_.set_segment_bases(thread.cpu.sregs.fs.base, thread.cpu.sregs.gs.base);
  return vm_->set_xsave(thread.xsave);
}

// Gives a thread that clone() has just made its first registers: those of its maker.
bool Guest::start_thread(Stop& stop) {
  auto made = kernel_.take_new_thread();
  if (!made) return false;
  Thread& thread = kernel_.edit_threads().newest();
  thread.in_syscall = true;
  thread.result = 0;
  if (auto saved = save_thread(thread); !saved) {
    stop_with(stop, Outcome::kInternal, saved.error().message);
    return true;
  }
  if (made->stack != 0) thread.cpu.regs.rsp = made->stack;
  if (made->fs_base) thread.cpu.sregs.fs.base = *made->fs_base;
  return false;
}

// The current thread waits, has yielded, has ended or has had its turn: lets the next one run.
bool Guest::next_thread(Stop& stop, Watchdog& watchdog) {
  uint32_t on_cpu = 0;  // whose registers the vCPU has; 0: nobody's any more
  if (kernel_.threads().has_current()) {
    Threads& threads = kernel_.edit_threads();
    on_cpu = threads.current().id;
    if (threads.count() > 1) {
      if (auto saved = save_thread(threads.current()); !saved) {
        stop_with(stop, Outcome::kInternal, saved.error().message);
        return true;
      }
    }
  }
  for (;;) {
    if (!wait_for_turn(stop)) return true;
    Thread& next = kernel_.edit_threads().current();
    if (next.id != on_cpu) {
      if (auto loaded = load_thread(next); !loaded) {
        stop_with(stop, Outcome::kInternal, loaded.error().message);
        return true;
      }
      on_cpu = next.id;
    }
    if (next.retry) {
      Kernel::Step step = kernel_.serve(Syscall(next.call), deadline_ns_);
      if (step == Kernel::Step::kWaits) continue;
      if (step == Kernel::Step::kEnded) {
        stop.ending = kernel_.ending();
        return true;
      }
      if (step == Kernel::Step::kNeedsInput) {
        pending_ = kernel_.edit_threads().current().call;
        stop.needs_input = true;
        return true;
      }
      kernel_.edit_threads().current().result = kernel_.result();
    }
    Thread& runs = kernel_.edit_threads().current();
    if (runs.in_syscall) return_from_syscall(runs.result);
    runs.in_syscall = false;
    set_next_stop(watchdog);
    return false;
  }
}

void Guest::sleep_until(int64_t until_ns) {
  bool give_away = slot_ != nullptr && until_ns - now_ns() >= kSleepWorthASlotNs;
  if (give_away) slot_->release();
  timespec t{until_ns / 1'000'000'000, until_ns % 1'000'000'000};
  while (now_ns() < until_ns) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
  if (give_away) slot_->acquire(deadline_ns_);
}

// Makes a thread that can run the current one; waits for it, until the deadline. Returns whether
// there is one.
bool Guest::wait_for_turn(Stop& stop) {
  bool waited = false;
  while (!kernel_.edit_threads().pick(now_ns())) {
    waited = true;
    auto at = kernel_.threads().earliest_wake_ns();
    sleep_until(std::min(at.value_or(deadline_ns_), deadline_ns_));
    if (now_ns() >= deadline_ns_) {
      time_out(stop);
      return false;
    }
  }
  if (waited) tell_time();
  return true;
}

// The end of a turn, wherever the program is: in a stub it may go on for a moment.
bool Guest::preempt(Stop& stop, Watchdog& watchdog) {
  if (kernel_.threads().count() > 1 && layout_.contains(vm_->run().s.regs.regs.rip, 1)) {
    return next_thread(stop, watchdog);
  }
  set_next_stop(watchdog);
  return false;
}

// When the vCPU shall stop next if the program does not leave it by itself.
void Guest::set_next_stop(Watchdog& watchdog) {
  int64_t at = deadline_ns_;
  int64_t now = 0;
  if (cpu_limit_ns_ != 0) {
    now = now_ns();
    at = std::min(at, now + std::max<int64_t>(cpu_limit_ns_ - thread_cpu_ns(), kTurnNs));
  }
  if (kernel_.threads().count() > 1 && kernel_.threads().others_wait_for_turn()) {
    if (now == 0) now = now_ns();
    at = std::min(at, now + kTurnNs);
  }
  if (at != watchdog.deadline_ns()) watchdog.set(at);
}

}  // namespace sluice::vmm
