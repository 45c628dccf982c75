#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <linux/kvm.h>

#include "executor/vmm/guest_ram.h"
#include "executor/vmm/kvm.h"
#include "executor/vmm/layout.h"

// What the CPU needs to run a program at CPL 3 with nothing but a stub below it: descriptor tables,
// page tables, the stub itself, and the registers to begin with. See executor/README.md.
namespace sluice::vmm {

inline constexpr uint16_t kKernelCs = 0x10, kKernelSs = 0x18;
inline constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;

// The ports that the stubs write to. On a software KVM a program at CPL 3 can write to the first
// one itself, so that an exit counts only together with the RIP that it came from. Below 8.
inline constexpr uint16_t kSyscallPort = 0x01;
inline constexpr uint16_t kExceptionPort = 0x80;  // plus the vector
inline constexpr unsigned kExceptionVectors = 32;
inline constexpr uint64_t kExceptionStubBytes = 16;

// RFLAGS: bit 1 is always set.
inline constexpr uint64_t kRflagsFixed = 0x2, kRflagsIf = 0x200;
// What a program may have in its flags: the arithmetic flags, TF, DF, AC and ID.
inline constexpr uint64_t kRflagsUser = 0x240dd5;

// Every entry into a program that is not the return from a system call leads through the resume
// stub. It loads the FPU, SSE and AVX registers from here (the standard XSAVE format), then RDX and
// RAX, and goes to RCX with the flags in R11 (software: with those of the entry).
struct ResumeData {
  alignas(64) XsaveArea xsave;
  alignas(64) uint64_t rdx;
  uint64_t rax;
};
static_assert(sizeof(ResumeData) <= kPageBytes);
inline constexpr uint64_t kResumeDataOffset = kPageResumeData * kPageBytes;
inline constexpr uint64_t kClockPageOffset = kPageClock * kPageBytes;

// Whether code at `address` lies in the vDSO.
constexpr bool in_vdso(uint64_t address) {
  return address >= kernel_address(kPageVdso) &&
         address - kernel_address(kPageVdso) < kVdsoBytesMax;
}

// Fills the kernel's pages and the page tables above the window's last level.
void write_kernel_area(GuestRam& ram, const Layout& layout, Flavour flavour, uint64_t xcr0);

// Special registers: long mode, in the stub at CPL 0 (hardware) or in user mode (software).
kvm_sregs boot_sregs(const kvm_sregs& reset_values, const Layout& layout, Flavour flavour);
void set_user_mode(kvm_sregs& sregs);
std::vector<kvm_msr_entry> boot_msrs();

// The address of the resume stub and RFLAGS on entry to it.
uint64_t resume_stub(Flavour flavour);
uint64_t resume_rflags(Flavour flavour, uint64_t user_rflags);

// x87, SSE and AVX as a fresh process has them, and as a vCPU has them now.
XsaveArea initial_xsave();
XsaveArea resumable_xsave(XsaveArea saved, uint64_t xcr0);

// Whether a port exit at `rip` comes from the stub for system calls, or for that vector.
bool is_syscall_exit(uint64_t rip, uint16_t port);
bool is_exception_exit(uint64_t rip, uint16_t port);

// What the CPU pushed when it took an exception out of CPL 3.
struct ExceptionFrame {
  uint64_t error_code, rip, cs, rflags, rsp, ss;
};
ExceptionFrame read_exception_frame(const GuestRam& ram, unsigned vector);

}  // namespace sluice::vmm
