#include "executor/vmm/guest.h"

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/check.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

struct VectorName {
  const char* name;
  const char* signal;  // what Linux would have made of it
};

VectorName vector_name(unsigned vector) {
  switch (vector) {
    case 0:
      return {"division error", "SIGFPE"};
    case 1:
      return {"single step", "SIGTRAP"};
    case 3:
      return {"breakpoint", "SIGTRAP"};
    case 4:
      return {"overflow", "SIGSEGV"};
    case 5:
      return {"bound range exceeded", "SIGSEGV"};
    case 6:
      return {"invalid instruction", "SIGILL"};
    case 12:
      return {"stack fault", "SIGBUS"};
    case 13:
      return {"general protection fault", "SIGSEGV"};
    case 14:
      return {"segmentation fault", "SIGSEGV"};
    case 16:
      return {"x87 floating-point error", "SIGFPE"};
    case 17:
      return {"unaligned access", "SIGBUS"};
    case 19:
      return {"SIMD floating-point error", "SIGFPE"};
    default:
      return {"CPU exception", "SIGSEGV"};
  }
}

const char* access_name(uint64_t page_fault_error) {
  if (page_fault_error & 0x10) return "execution";
  return page_fault_error & 2 ? "a write" : "a read";
}

}  // namespace

Guest::Guest(const Machine& machine, const Layout& layout, std::unique_ptr<GuestRam> ram,
             std::string name, const Limits& limits, std::shared_ptr<const RootFs> rootfs)
    : machine_(machine),
      layout_(layout),
      limits_(limits),
      ram_(std::move(ram)),
      space_(layout, *ram_),
      kernel_(std::move(name), limits, space_, std::move(rootfs)) {}

Expected<std::unique_ptr<Guest>> Guest::create(const Machine& machine, const Layout& layout,
                                               std::unique_ptr<GuestRam> ram, std::string name,
                                               const Limits& limits,
                                               std::shared_ptr<const RootFs> rootfs,
                                               bool log_dirty) {
  std::unique_ptr<Guest> guest(
      new Guest(machine, layout, std::move(ram), std::move(name), limits, std::move(rootfs)));
  auto vm = VirtualMachine::create(machine, guest->ram_->memory(), log_dirty);
  if (!vm) return std::unexpected(vm.error());
  guest->vm_ = std::move(*vm);
  if (auto set = guest->vm_->set_msrs(boot_msrs()); !set) return std::unexpected(set.error());
  auto reset_values = guest->vm_->sregs();
  if (!reset_values) return std::unexpected(reset_values.error());
  auto sregs = boot_sregs(*reset_values, layout, machine.flavour());
  if (auto set = guest->set_sregs(sregs); !set) return std::unexpected(set.error());
  // Only once CR4.OSXSAVE is set.
  if (auto set = guest->vm_->set_xcr0(machine.xcr0()); !set) return std::unexpected(set.error());
  guest->tsc_offset_ = guest->vm_->tsc_offset();
  guest->vm_->run().kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  return guest;
}

Expected<void> Guest::set_sregs(const kvm_sregs& sregs) {
  kernel_.set_segment_bases(sregs.fs.base, sregs.gs.base);
  vm_->run().s.regs.sregs = sregs;
  return vm_->set_sregs(sregs);
}

void Guest::enter_at(const CpuState& state, uint64_t rax) {
  auto* data = reinterpret_cast<ResumeData*>(ram_->scratch(kResumeDataOffset, sizeof(ResumeData)));
  data->rax = rax;
  kvm_run& run = vm_->run();
  run.s.regs.regs = state.regs;
  run.s.regs.regs.rip = resume_stub(machine_.flavour());
  run.s.regs.regs.rflags = resume_rflags(machine_.flavour(), state.regs.r11);
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

CpuState Guest::cpu_state() {
  const auto& shared = vm_->run().s.regs;
  return {shared.regs, shared.sregs};
}

std::unique_ptr<GuestRam> Guest::release_ram(std::unique_ptr<Guest> guest) {
  guest->vm_.reset();
  return std::move(guest->ram_);
}

void Guest::stop_with(Stop& stop, Outcome outcome, std::string message) {
  stop.broken = true;
  stop.ending = kernel_.end_by(outcome, 0, std::move(message));
}

Guest::Stop Guest::run(int64_t deadline_ns) {
  Stop stop;
  deadline_ns_ = deadline_ns;
  cpu_limit_ns_ = limits_.cpu_ms > 0 ? thread_cpu_ns() + limits_.cpu_ms * 1'000'000ll : 0;
  clock_page().usable = 0;  // what an earlier run was told
  tell_time();
  Watchdog watchdog(vm_->run(), deadline_ns);
  set_next_stop(watchdog);
  for (;;) {
    int error = vm_->enter();
    if (error == EINTR || error == EAGAIN) {
      if (handle_interruption(stop, watchdog)) return stop;
      continue;
    }
    if (error != 0) {
      stop_with(stop, Outcome::kInternal,
                fmt::format("the VM could not be run: {}", std::strerror(error)));
      return stop;
    }
    stop.exits++;
    kvm_run& run = vm_->run();
    switch (run.exit_reason) {
      case KVM_EXIT_IO:
        if (handle_io(stop, watchdog)) return stop;
        break;
      case KVM_EXIT_SHUTDOWN:
        stop_with(stop, Outcome::kException,
                  fmt::format("the CPU shut down (triple fault) at rip 0x{:x}, rsp 0x{:x}, last "
                              "faulting address 0x{:x}",
                              run.s.regs.regs.rip, run.s.regs.regs.rsp, run.s.regs.sregs.cr2));
        return stop;
      case KVM_EXIT_INTERNAL_ERROR:
        // KVM emulates some instructions, and not all of them.
        stop_with(stop, Outcome::kException,
                  fmt::format("KVM can not run the instruction at rip 0x{:x} (reason {})",
                              run.s.regs.regs.rip, run.internal.suberror));
        return stop;
      default:
        stop_with(stop, Outcome::kInternal,
                  fmt::format("the VM stopped for an unexpected reason ({}) at rip 0x{:x}",
                              run.exit_reason, run.s.regs.regs.rip));
        return stop;
    }
  }
}

ClockPage& Guest::clock_page() {
  return *reinterpret_cast<ClockPage*>(ram_->scratch(kClockPageOffset, sizeof(ClockPage)));
}

void Guest::tell_time() {
  if (!tsc_offset_) return;
  ClockSample now = sample_clocks();
  update_clock_page(clock_page(), now, *tsc_offset_, machine_.tsc_rate().ns_per_tick_32(now));
}

void Guest::time_out(Stop& stop) {
  stop_with(stop, Outcome::kTimeout,
            fmt::format("the program ran longer than its timeout of {} ms", limits_.timeout_ms));
}

// The watchdog's signal, or an old one: its time may be the call's deadline, that of the CPU time's
// limit, or a thread's whose turn is over.
bool Guest::handle_interruption(Stop& stop, Watchdog& watchdog) {
  int64_t now = now_ns();
  if (now >= deadline_ns_) {
    time_out(stop);
    return true;
  }
  if (cpu_limit_ns_ != 0 && thread_cpu_ns() >= cpu_limit_ns_) {
    stop_with(
        stop, Outcome::kCpuLimit,
        fmt::format("the program took more CPU time than its limit of {} ms", limits_.cpu_ms));
    return true;
  }
  if (now < watchdog.deadline_ns()) return false;
  return preempt(stop, watchdog);
}

// Returns whether the run is over. A program may be able to write to ports itself: what an exit
// means follows from where it happened.
bool Guest::handle_io(Stop& stop, Watchdog& watchdog) {
  kvm_run& run = vm_->run();
  uint64_t rip = run.s.regs.regs.rip;
  uint16_t port = run.io.port;
  if (is_syscall_exit(rip, port)) return handle_syscall(stop, watchdog);
  if (is_exception_exit(rip, port)) {
    stop.ending = exception_ending(port - kExceptionPort);
    stop.broken = true;
    return true;
  }
  stop_with(stop, Outcome::kException,
            fmt::format("general protection fault: the program used I/O port 0x{:x} at rip 0x{:x}",
                        port, rip));
  return true;
}

bool Guest::handle_syscall(Stop& stop, Watchdog& watchdog) {
  const kvm_regs& r = vm_->run().s.regs.regs;
  // On a software KVM the program may have jumped to the stub with any RCX.
  if (!layout_.contains(r.rcx, 1) && !in_vdso(r.rcx)) {
    stop_with(stop, Outcome::kException,
              fmt::format("general protection fault: a system call from outside the program's "
                          "memory (0x{:x})",
                          r.rcx));
    return true;
  }
  Syscall call{r.rax, {r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9}};
  switch (kernel_.serve(call, deadline_ns_)) {
    case Kernel::Step::kReturn:
      if (start_thread(stop)) return true;
      return_from_syscall(kernel_.result());
      if (kernel_.threads().count() > 1) set_next_stop(watchdog);
      return false;
    case Kernel::Step::kEnded:
      stop.ending = kernel_.ending();
      return true;
    case Kernel::Step::kNeedsInput:
      pending_ = call;
      stop.needs_input = true;
      return true;
    case Kernel::Step::kWaits:
      return next_thread(stop, watchdog);
  }
  return true;
}

void Guest::return_from_syscall(int64_t result) {
  kvm_run& run = vm_->run();
  kvm_regs& r = run.s.regs.regs;
  r.rax = static_cast<uint64_t>(result);
  if (machine_.flavour() == Flavour::kSoftware) {
    r.rip = r.rcx;
    r.rflags = resume_rflags(Flavour::kSoftware, r.r11);
  }
  run.kvm_dirty_regs |= KVM_SYNC_X86_REGS;
  auto fs = kernel_.take_fs_base();
  auto gs = kernel_.take_gs_base();
  if (fs) run.s.regs.sregs.fs.base = *fs;
  if (gs) run.s.regs.sregs.gs.base = *gs;
  if (fs || gs) run.kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

Ending Guest::exception_ending(unsigned vector) {
  ExceptionFrame frame = read_exception_frame(*ram_, vector);
  VectorName v = vector_name(vector);
  std::string message =
      fmt::format("{} ({}, vector {}) at rip 0x{:x}", v.name, v.signal, vector, frame.rip);
  if (vector == 14) {
    uint64_t address = vm_->run().s.regs.sregs.cr2;
    message += fmt::format(": {} at 0x{:x}, {}", access_name(frame.error_code), address,
                           space_.describe(address));
  } else if (frame.error_code != 0) {
    message += fmt::format(", error code 0x{:x}", frame.error_code);
  }
  return kernel_.end_by(Outcome::kException, 0, std::move(message));
}

}  // namespace sluice::vmm
