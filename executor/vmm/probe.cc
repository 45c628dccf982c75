#include "executor/vmm/probe.h"

#include <fmt/format.h>
#include <x86intrin.h>

#include "executor/vmm/address_space.h"
#include "executor/vmm/boot.h"
#include "executor/vmm/kvm.h"

namespace sluice::vmm {
namespace {

// What the guest read, between two readings of the host's.
TscSource tsc_source(uint64_t guest, uint64_t before, uint64_t after,
                     std::optional<uint64_t> offset) {
  if (guest >= before && guest <= after) return TscSource::kHost;
  if (!offset) return TscSource::kUnknown;
  // The offset was found by two readings itself.
  uint64_t slack = (after - before) / 2 + 10'000;
  uint64_t host = guest - *offset;
  return host + slack >= before && host <= after + slack ? TscSource::kMsr : TscSource::kUnknown;
}

}  // namespace

Expected<void> probe(Machine& machine) {
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
  // rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; syscall
  const uint8_t code[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09,
                          0xd0, 0x48, 0x89, 0xc3, 0x0f, 0x05, 0xf4};
  __builtin_memcpy((*ram)->writable(layout->physical_page(code_page) * kPageBytes, sizeof code),
                   code, sizeof code);

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
  uint64_t before = __rdtsc();
  int error = (*vm)->enter();
  uint64_t after = __rdtsc();
  uint64_t rip = run.s.regs.regs.rip;
  if (error != 0 || run.exit_reason != KVM_EXIT_IO || !is_syscall_exit(rip, run.io.port)) {
    return fail(Code::kUnavailable,
                fmt::format("this KVM does not run a system call as expected (errno {}, exit {}, "
                            "rip 0x{:x}); please report it",
                            error, run.exit_reason, rip));
  }
  machine.flavour_ = run.s.regs.sregs.cs.dpl == 0 ? Flavour::kHardware : Flavour::kSoftware;
  if (machine.tsc_rate_.start()) {
    machine.tsc_source_ =
        tsc_source(run.s.regs.regs.rbx, before, after, (*vm)->tsc_offset_by_msr());
  }
  return {};
}

}  // namespace sluice::vmm
