#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <linux/kvm.h>

#include "base/error.h"
#include "executor/contract/backend.h"
#include "executor/vmm/address_space.h"
#include "executor/vmm/boot.h"
#include "executor/vmm/clock.h"
#include "executor/vmm/guest_ram.h"
#include "executor/vmm/kernel.h"
#include "executor/vmm/kvm.h"
#include "executor/vmm/layout.h"
#include "executor/vmm/outcome.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {

// A program in its VM: memory, vCPU and the host's side of it. The loop between KVM_RUN and system
// calls is here. Owned and used by one thread.
class Guest {
 public:
  // `layout` must outlive it.
  static Expected<std::unique_ptr<Guest>> create(const Machine& machine, const Layout& layout,
                                                 std::unique_ptr<GuestRam> ram, std::string name,
                                                 const Limits& limits,
                                                 std::shared_ptr<const RootFs> rootfs,
                                                 bool log_dirty);

  GuestRam& ram() { return *ram_; }
  AddressSpace& space() { return space_; }
  Kernel& kernel() { return kernel_; }
  VirtualMachine& vm() { return *vm_; }

  // Special registers as the vCPU has them.
  const kvm_sregs& sregs() { return vm_->run().s.regs.sregs; }
  // Sets both; needed before the first run, and after one that left sregs changed.
  Expected<void> set_sregs(const kvm_sregs& sregs);
  // Lets the next run() start at `state` with this value in RAX. sregs are not touched.
  void enter_at(const CpuState& state, uint64_t rax);

  struct Stop {
    bool needs_input = false;  // else it ended
    Ending ending;
    bool broken = false;  // the vCPU is in a state that is not worth putting back
    uint32_t exits = 0;
  };
  // Runs until the program ends, wants input that is not there, or the deadline passes.
  Stop run(int64_t deadline_ns);
  // After needs_input: the call that wants it, and where to go on once it is served.
  Syscall pending_call() const { return pending_; }
  CpuState cpu_state();

  // What is given away while the program sleeps; null: nothing.
  void use_slot(executor::Slot* slot) { slot_ = slot; }

  // Ends `ram` without the rest; the guest can not be used any more.
  static std::unique_ptr<GuestRam> release_ram(std::unique_ptr<Guest> guest);

 private:
  Guest(const Machine& machine, const Layout& layout, std::unique_ptr<GuestRam> ram,
        std::string name, const Limits& limits, std::shared_ptr<const RootFs> rootfs);
  bool handle_io(Stop& stop, Watchdog& watchdog);
  bool handle_syscall(Stop& stop, Watchdog& watchdog);
  bool handle_interruption(Stop& stop, Watchdog& watchdog);
  void return_from_syscall(int64_t result);
  void time_out(Stop& stop);
  ClockPage& clock_page();
  // Sets the vDSO's clocks to the host's.
  void tell_time();
  // Threads (guest_threads.cc).
  bool start_thread(Stop& stop);
  bool next_thread(Stop& stop, Watchdog& watchdog);
  bool wait_for_turn(Stop& stop);
  void sleep_until(int64_t until_ns);
  bool preempt(Stop& stop, Watchdog& watchdog);
  void set_next_stop(Watchdog& watchdog);
  Expected<void> save_thread(Thread& thread);
  Expected<void> load_thread(const Thread& thread);
  Ending exception_ending(unsigned vector);
  void stop_with(Stop& stop, Outcome outcome, std::string message);

  const Machine& machine_;
  const Layout& layout_;
  Limits limits_;
  std::unique_ptr<GuestRam> ram_;
  AddressSpace space_;
  Kernel kernel_;
  std::unique_ptr<VirtualMachine> vm_;
  Syscall pending_{};
  executor::Slot* slot_ = nullptr;
  std::optional<uint64_t> tsc_offset_;  // none: programs ask for the time by system call
  // Of the present run; the second is on the thread's CPU clock, 0 for none.
  int64_t deadline_ns_ = 0;
  int64_t cpu_limit_ns_ = 0;
};

}  // namespace sluice::vmm
