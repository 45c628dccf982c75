#include "bench/call_floor.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "executor/vmm/address_space.h"
#include "executor/vmm/boot.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kData = kPieBase + 0x10000;

}  // namespace

CallFloor::CallFloor(const Machine& machine, uint64_t pages) : pages_(pages) {
  CHECK(machine.flavour() == Flavour::kSoftware);
  ElfImage image;
  image.low = kPieBase;
  image.high = kPieBase + kPageBytes;
  layout_ = *make_layout(image, 16 << 20);
  auto made = *GuestRam::create(layout_.total_bytes);
  write_kernel_area(*made, layout_, machine.flavour(), machine.xcr0());
  AddressSpace space(layout_, *made);
  space.load_pages(layout_.page_of(kPieBase), 1, kProtRead | kProtExec);
  space.load_pages(layout_.page_of(kData), pages, kProtRead | kProtWrite);
  // mov [rdi], rax; add rdi, 4096; dec rsi; jnz back; syscall
  const uint8_t code[] = {0x48, 0x89, 0x07, 0x48, 0x81, 0xc7, 0,    0x10, 0,
                          0,    0x48, 0xff, 0xce, 0x75, 0xf1, 0x0f, 0x05};
  std::memcpy(made->writable(layout_.ram + (kPieBase - layout_.window), sizeof code), code,
              sizeof code);
  std::memset(made->writable(layout_.ram + (kData - layout_.window), pages * kPageBytes), 1,
              pages * kPageBytes);
  ram_ = *GuestRam::clone(*GuestRam::seal(std::move(made)));
  vm_ = *VirtualMachine::create(machine, ram_->memory(), true);
  auto sregs = boot_sregs(*vm_->sregs(), layout_, machine.flavour());
  CHECK(vm_->set_sregs(sregs) && vm_->set_msrs(boot_msrs()));
  vm_->run().kvm_valid_regs = KVM_SYNC_X86_REGS;
  dirty_.resize((ram_->pages() + 63) / 64);
}

void CallFloor::call() {
  kvm_run& run = vm_->run();
  run.s.regs.regs = {};
  run.s.regs.regs.rip = kPieBase;
  run.s.regs.regs.rdi = kData;
  run.s.regs.regs.rsi = pages_;
  run.s.regs.regs.rax = 0xdead;
  run.s.regs.regs.rflags = kRflagsFixed | kRflagsIf;
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS;
  CHECK(vm_->enter() == 0 && run.exit_reason == KVM_EXIT_IO);
  CHECK(vm_->dirty_log(dirty_));
  uint64_t copied = 0;
  for (size_t i = 0; i < dirty_.size(); i++) {
    for (uint64_t left = dirty_[i]; left != 0; left &= left - 1) {
      uint64_t page = i * 64 + static_cast<uint64_t>(std::countr_zero(left));
      std::memcpy(ram_->scratch(page * kPageBytes, kPageBytes), ram_->source()->page(page),
                  kPageBytes);
      copied++;
    }
  }
  CHECK(copied >= pages_);
}

}  // namespace sluice::vmm
