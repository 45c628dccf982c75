#include "executor/vmm/probe.h"

#include <fmt/format.h>

#include "executor/vmm/address_space.h"
#include "executor/vmm/boot.h"
#include "executor/vmm/kvm.h"

namespace sluice::vmm {

Expected<void> detect_flavour(Machine& machine) {
  ElfImage image;
  image.low = kPieBase;
  image.high = kPieBase + kPageBytes;
  auto layout = make_layout(image, kMemoryBytesMin);
  if (!layout) return std::unexpected(layout.error());
  auto ram = GuestRam::create(layout->total_bytes);
  if (!ram) return std::unexpected(ram.error());
  // The stub is mapped for both CPLs, as on a software KVM.
  write_kernel_area(**ram, *layout, Flavour::kSoftware, machine.xcr0());
  AddressSpace space(*layout, **ram);
  uint64_t code_page = layout->page_of(kPieBase);
  space.load_pages(code_page, 1, kProtRead | kProtExec);
  const uint8_t syscall[] = {0x0f, 0x05, 0xf4};
  __builtin_memcpy((*ram)->writable(layout->physical_page(code_page) * kPageBytes, sizeof syscall),
                   syscall, sizeof syscall);

  auto vm = VirtualMachine::create(machine, (*ram)->memory(), false);
  if (!vm) return std::unexpected(vm.error());
  auto reset_values = (*vm)->sregs();
  if (!reset_values) return std::unexpected(reset_values.error());
  auto sregs = boot_sregs(*reset_values, *layout, Flavour::kSoftware);
  if (auto set = (*vm)->set_sregs(sregs); !set) return set;
  if (auto set = (*vm)->set_msrs(boot_msrs()); !set) return set;
  kvm_run& run = (*vm)->run();
  run.kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS;
  run.s.regs.regs = {};
  run.s.regs.regs.rip = kPieBase;
  run.s.regs.regs.rflags = kRflagsFixed | kRflagsIf;
  int error = (*vm)->enter();
  uint64_t rip = run.s.regs.regs.rip;
  if (error != 0 || run.exit_reason != KVM_EXIT_IO || !is_syscall_exit(rip, run.io.port)) {
    return fail(Code::kUnavailable,
                fmt::format("this KVM does not run a system call as expected (errno {}, exit {}, "
                            "rip 0x{:x}); please report it",
                            error, run.exit_reason, rip));
  }
  machine.flavour_ = run.s.regs.sregs.cs.dpl == 0 ? Flavour::kHardware : Flavour::kSoftware;
  return {};
}

}  // namespace sluice::vmm
