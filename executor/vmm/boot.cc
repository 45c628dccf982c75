#include "executor/vmm/boot.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "executor/vdso/vdso_image.h"
#include "executor/vmm/address_space.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kStubSyscall = 0x00;
constexpr uint64_t kStubResumeHardware = 0x40;
constexpr uint64_t kStubResumeSoftware = 0x80;
constexpr uint64_t kTssOffset = 0x200;  // in the GDT's page
constexpr uint64_t kTssBytes = 0x68;    // without the I/O permission bitmap
constexpr uint64_t kTssLimit = kTssBytes + 2;
constexpr uint16_t kTssSelector = 0x40;
constexpr uint64_t kIoPortOut = 2;  // bytes of `out imm8, al`

constexpr uint64_t kCr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE
constexpr uint64_t kCr4 = 0x40620;     // OSXSAVE, OSXMMEXCPT, OSFXSR, PAE; no FSGSBASE, PCE or PKE
constexpr uint64_t kEfer = 0xd01;      // NXE, LMA, LME, SCE

constexpr uint32_t kMsrStar = 0xc0000081, kMsrLstar = 0xc0000082, kMsrCstar = 0xc0000083;
constexpr uint32_t kMsrSfmask = 0xc0000084;
// Cleared on entry to the stub: TF, IF, DF, IOPL, NT, AC and the arithmetic flags.
constexpr uint64_t kSfmask = 0x47fd5;

constexpr uint64_t kTablePresentUser = 0x27;   // present, writable, user, accessed
constexpr uint64_t kEntrySupervisorRw = 0x63;  // present, writable, accessed, dirty
constexpr uint64_t kEntrySupervisorRo = 0x61;
constexpr uint64_t kEntryUserRo = 0x65;
constexpr uint64_t kEntryNoExecute = 1ull << 63;

uint8_t* page_at(GuestRam& ram, KernelPage page) {
  return ram.writable(page * kPageBytes, kPageBytes);
}

// The I/O permission bitmap (Intel SDM volume 1, 19.5.2) opens one port to CPL 3 where the stub
// runs there, and none elsewhere. A software KVM goes by it and not by IOPL.
void write_gdt(GuestRam& ram, Flavour flavour) {
  uint8_t* page = page_at(ram, kPageGdt);
  auto* gdt = reinterpret_cast<uint64_t*>(page);
  gdt[2] = 0x00af9b000000ffff;  // CPL 0 code, 64-bit
  gdt[3] = 0x00cf93000000ffff;  // CPL 0 data
  gdt[4] = 0;                   // where SYSRET looks for 32-bit code: there is none
  gdt[5] = 0x00cff3000000ffff;  // CPL 3 data
  gdt[6] = 0x00affb000000ffff;  // CPL 3 code, 64-bit
  uint64_t tss = kernel_address(kPageGdt) + kTssOffset;
  gdt[8] = kTssLimit | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
  gdt[9] = tss >> 32;
  uint64_t stack_top = kernel_address(kPageKernelStack) + kPageBytes;
  std::memcpy(page + kTssOffset + 4, &stack_top, sizeof stack_top);
  const uint16_t io_map = kTssBytes;
  std::memcpy(page + kTssOffset + 0x66, &io_map, sizeof io_map);
  std::memset(page + kTssOffset + kTssBytes, 0xff, 3);
  if (flavour == Flavour::kSoftware) {
    page[kTssOffset + kTssBytes] = static_cast<uint8_t>(~(1u << kSyscallPort));
  }
}

void write_exceptions(GuestRam& ram) {
  uint8_t* stubs = page_at(ram, kPageExceptionStubs);
  auto* idt = reinterpret_cast<uint64_t*>(page_at(ram, kPageIdt));
  for (unsigned v = 0; v < kExceptionVectors; v++) {
    uint8_t code[] = {0xe6, static_cast<uint8_t>(kExceptionPort + v), 0xf4};  // out, hlt
    std::memcpy(stubs + v * kExceptionStubBytes, code, sizeof code);
    uint64_t at = kernel_address(kPageExceptionStubs) + v * kExceptionStubBytes;
    // INT3 and INTO may be raised by instruction; the others only by the CPU itself.
    uint64_t gate = (v == 3 || v == 4) ? 0xee : 0x8e;
    idt[v * 2] = (at & 0xffff) | static_cast<uint64_t>(kKernelCs) << 16 | gate << 40 |
                 (at >> 16 & 0xffff) << 48;
    idt[v * 2 + 1] = at >> 32;
  }
}

// Assembles the resume stub at `at` in the stub's page; `tail` goes to the program.
void write_resume(uint8_t* page, uint64_t at, uint64_t xcr0, std::span<const uint8_t> tail) {
  uint8_t* out = page + at;
  auto emit = [&out](std::span<const uint8_t> bytes) {
    std::memcpy(out, bytes.data(), bytes.size());
    out += bytes.size();
  };
  auto emit_relative = [&](uint64_t field) {
    uint64_t next = kernel_address(kPageSyscallStub) + static_cast<uint64_t>(out + 4 - page);
    auto distance = static_cast<int32_t>(kernel_address(kPageResumeData) + field - next);
    emit({reinterpret_cast<uint8_t*>(&distance), 4});
  };
  const uint8_t fninit[] = {0xdb, 0xe3};  // also the x87 pointers, which AMD's XRSTOR may leave
  const uint8_t mask[] = {0xb8, static_cast<uint8_t>(xcr0), 0, 0, 0, 0xba, 0, 0, 0, 0};
  const uint8_t xrstor[] = {0x48, 0x0f, 0xae, 0x2d};
  const uint8_t load_rdx[] = {0x48, 0x8b, 0x15};
  const uint8_t load_rax[] = {0x48, 0x8b, 0x05};
  emit(fninit);
  emit(mask);
  emit(xrstor);
  emit_relative(offsetof(ResumeData, xsave));
  emit(load_rdx);
  emit_relative(offsetof(ResumeData, rdx));
  emit(load_rax);
  emit_relative(offsetof(ResumeData, rax));
  emit(tail);
  CHECK(static_cast<uint64_t>(out - page) <= at + 0x40);
}

void write_stubs(GuestRam& ram, uint64_t xcr0) {
  uint8_t* page = page_at(ram, kPageSyscallStub);
  const uint8_t syscall[] = {0xe6, kSyscallPort, 0x48, 0x0f, 0x07};  // out, sysretq
  std::memcpy(page + kStubSyscall, syscall, sizeof syscall);
  const uint8_t sysretq[] = {0x48, 0x0f, 0x07};
  const uint8_t jump_rcx[] = {0xff, 0xe1};
  write_resume(page, kStubResumeHardware, xcr0, sysretq);
  write_resume(page, kStubResumeSoftware, xcr0, jump_rcx);
}

void write_tables(GuestRam& ram, const Layout& l, Flavour flavour) {
  auto table = [&ram](uint64_t offset, uint64_t pages = 1) {
    return reinterpret_cast<uint64_t*>(ram.writable(offset, pages * kPageBytes));
  };
  uint64_t* pml4 = table(l.pml4);
  pml4[kKernelBase >> 39 & 511] = l.kernel_pdpt | kTablePresentUser;
  table(l.kernel_pdpt)[kKernelBase >> 30 & 511] = l.kernel_pd | kTablePresentUser;
  table(l.kernel_pd)[kKernelBase >> 21 & 511] = l.kernel_pt | kTablePresentUser;
  uint64_t* pt = table(l.kernel_pt);
  // A software KVM stays at CPL 3 in the syscall stub, which the program may then as well see.
  uint64_t stub = flavour == Flavour::kSoftware ? kEntryUserRo : kEntrySupervisorRo;
  pt[kPageGdt] = (kPageGdt * kPageBytes) | kEntrySupervisorRw | kEntryNoExecute;
  pt[kPageIdt] = (kPageIdt * kPageBytes) | kEntrySupervisorRo | kEntryNoExecute;
  pt[kPageExceptionStubs] = (kPageExceptionStubs * kPageBytes) | kEntrySupervisorRo;
  pt[kPageSyscallStub] = (kPageSyscallStub * kPageBytes) | stub;
  pt[kPageResumeData] = (kPageResumeData * kPageBytes) | stub | kEntryNoExecute;
  pt[kPageClock] = (kPageClock * kPageBytes) | kEntryUserRo | kEntryNoExecute;
  for (uint64_t page = kPageVdso; page < kKernelPages; page++) {
    pt[page] = (page * kPageBytes) | kEntryUserRo;
  }
  pt[kPageKernelStack] = (kPageKernelStack * kPageBytes) | kEntrySupervisorRw | kEntryNoExecute;

  uint64_t* pdpts = table(l.window_pdpt, 2);
  uint64_t first_pml4 = l.window >> 39, first_gib = l.window >> 30;
  for (uint64_t i = 0; i < l.window_pds; i++) {
    uint64_t gib = first_gib + i;
    uint64_t which = (gib >> 9) - first_pml4;
    pml4[gib >> 9 & 511] = (l.window_pdpt + which * kPageBytes) | kTablePresentUser;
    pdpts[which * 512 + (gib & 511)] = (l.window_pd + i * kPageBytes) | kTablePresentUser;
  }
  uint64_t* pds = table(l.window_pd, l.window_pds);
  uint64_t first_pd_slot = (l.window >> 21) - (first_gib << 9);
  for (uint64_t i = 0; i < l.window_pts; i++) {
    pds[first_pd_slot + i] = (l.window_pt + i * kPageBytes) | kTablePresentUser;
  }
}

static_assert(sizeof kVdso <= kVdsoBytesMax);

void write_vdso(GuestRam& ram) {
  std::memcpy(ram.writable(kPageVdso * kPageBytes, sizeof kVdso), kVdso, sizeof kVdso);
}

kvm_segment segment(uint16_t selector, uint8_t dpl, bool code) {
  kvm_segment s = {};
  s.limit = 0xffffffff;
  s.selector = selector;
  s.type = code ? 11 : 3;
  s.present = 1;
  s.dpl = dpl;
  s.db = code ? 0 : 1;
  s.s = 1;
  s.l = code ? 1 : 0;
  s.g = 1;
  return s;
}

bool has_error_code(unsigned vector) {
  switch (vector) {
    case 8:
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
    case 17:
    case 21:
    case 29:
    case 30:
      return true;
    default:
      return false;
  }
}

}  // namespace

void write_kernel_area(GuestRam& ram, const Layout& layout, Flavour flavour, uint64_t xcr0) {
  write_gdt(ram, flavour);
  write_exceptions(ram);
  write_stubs(ram, xcr0);
  write_vdso(ram);
  write_tables(ram, layout, flavour);
}

void set_user_mode(kvm_sregs& sregs) {
  sregs.cs = segment(kUserCs, 3, true);
  sregs.ss = segment(kUserSs, 3, false);
}

kvm_sregs boot_sregs(const kvm_sregs& reset_values, const Layout& layout, Flavour flavour) {
  kvm_sregs s = reset_values;
  s.cr0 = kCr0;
  s.cr3 = layout.pml4;
  s.cr4 = kCr4;
  s.efer = kEfer;
  if (flavour == Flavour::kSoftware) {
    set_user_mode(s);
  } else {
    s.cs = segment(kKernelCs, 0, true);
    s.ss = segment(kKernelSs, 0, false);
  }
  s.ds = s.es = s.fs = s.gs = segment(kUserSs, 3, false);
  s.gdt = {};
  s.gdt.base = kernel_address(kPageGdt);
  s.gdt.limit = 10 * 8 - 1;
  s.idt = {};
  s.idt.base = kernel_address(kPageIdt);
  s.idt.limit = kExceptionVectors * 16 - 1;
  s.tr = {};
  s.tr.base = kernel_address(kPageGdt) + kTssOffset;
  s.tr.limit = kTssLimit;
  s.tr.selector = kTssSelector;
  s.tr.type = 11;
  s.tr.present = 1;
  s.ldt = {};
  s.ldt.unusable = 1;
  return s;
}

std::vector<kvm_msr_entry> boot_msrs() {
  uint64_t star = static_cast<uint64_t>(kUserCs - 16) << 48 | static_cast<uint64_t>(kKernelCs)
                                                                  << 32;
  uint64_t stub = kernel_address(kPageSyscallStub) + kStubSyscall;
  std::vector<kvm_msr_entry> msrs;
  for (auto [index, data] : {std::pair<uint32_t, uint64_t>{kMsrStar, star},
                             {kMsrLstar, stub},
                             {kMsrCstar, 0},
                             {kMsrSfmask, kSfmask}}) {
    kvm_msr_entry entry = {};
    entry.index = index;
    entry.data = data;
    msrs.push_back(entry);
  }
  return msrs;
}

uint64_t resume_stub(Flavour flavour) {
  return kernel_address(kPageSyscallStub) +
         (flavour == Flavour::kHardware ? kStubResumeHardware : kStubResumeSoftware);
}

uint64_t resume_rflags(Flavour flavour, uint64_t user_rflags) {
  // A software KVM runs the stub with the program's own flags.
  if (flavour == Flavour::kHardware) return kRflagsFixed;
  return (user_rflags & kRflagsUser) | kRflagsFixed | kRflagsIf;
}

XsaveArea initial_xsave() {
  XsaveArea area{};  // XSTATE_BV is 0: every component in its initial state
  const uint32_t mxcsr = 0x1f80;
  const uint16_t fcw = 0x37f;
  std::memcpy(area.data() + 24, &mxcsr, sizeof mxcsr);
  std::memcpy(area.data(), &fcw, sizeof fcw);
  return area;
}

XsaveArea resumable_xsave(XsaveArea saved, uint64_t xcr0) {
  uint64_t present;
  std::memcpy(&present, saved.data() + 512, sizeof present);
  present &= xcr0;
  std::memset(saved.data() + 512, 0, 64);
  std::memcpy(saved.data() + 512, &present, sizeof present);
  return saved;
}

bool is_syscall_exit(uint64_t rip, uint16_t port) {
  uint64_t stub = kernel_address(kPageSyscallStub) + kStubSyscall;
  return port == kSyscallPort && (rip == stub || rip == stub + kIoPortOut);
}

bool is_exception_exit(uint64_t rip, uint16_t port) {
  if (port < kExceptionPort || port >= kExceptionPort + kExceptionVectors) return false;
  uint64_t stub =
      kernel_address(kPageExceptionStubs) + (port - kExceptionPort) * kExceptionStubBytes;
  return rip == stub || rip == stub + kIoPortOut;
}

ExceptionFrame read_exception_frame(const GuestRam& ram, unsigned vector) {
  ExceptionFrame frame = {};
  constexpr uint64_t kTop = (kPageKernelStack + 1) * kPageBytes;
  if (has_error_code(vector)) {
    std::memcpy(&frame, ram.readable(kTop - sizeof frame, sizeof frame), sizeof frame);
  } else {
    constexpr uint64_t kBytes = sizeof frame - sizeof frame.error_code;
    std::memcpy(&frame.rip, ram.readable(kTop - kBytes, kBytes), kBytes);
  }
  return frame;
}

}  // namespace sluice::vmm
