#include "executor/vmm/kvm.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/check.h"
#include "executor/vmm/limits.h"
#include "executor/vmm/probe.h"

namespace sluice::vmm {
namespace {

// The ioctls whose number depends on the size of a struct with a flexible array, spelled out.
constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
static_assert(kGetXsave == 0x9000aea4);
static_assert(kSetXsave == 0x5000aea5);
static_assert(kGetSupportedCpuid == 0xc008ae05);
static_assert(kSetCpuid2 == 0x4008ae90);
static_assert(kGetMsrs == 0xc008ae88);
static_assert(kSetMsrs == 0x4008ae89);
static_assert(sizeof(kvm_cpuid_entry2) == 40);
static_assert(offsetof(CpuidTable, entries) == 8);

constexpr uint64_t kXcr0X87 = 1;
constexpr uint64_t kXcr0Sse = 2;
constexpr uint64_t kXcr0Avx = 4;
constexpr uint32_t kMsrsMax = 16;
constexpr uint32_t kMsrTsc = 0x10;

std::unexpected<Error> fail_errno(Code code, const char* what) {
  return fail(code, std::string(what) + ": " + std::strerror(errno));
}

// Making a VM or a vCPU is interrupted by any signal, such as an old one of the watchdog's timer.
int create_fd(int fd, unsigned long request) {
  int made;
  do {
    made = ioctl(fd, request, 0);
  } while (made < 0 && errno == EINTR);
  if (made >= 0) fcntl(made, F_SETFD, FD_CLOEXEC);
  return made;
}

constexpr uint32_t bits(std::initializer_list<int> list) {
  uint32_t mask = 0;
  for (int bit : list) mask |= 1u << bit;
  return mask;
}

// Takes out what guests do not get: state beyond AVX (the reset covers XCR0's components only),
// instructions that need a privilege or a device, and the hypervisor's own leaves.
void filter_entry(kvm_cpuid_entry2& e, uint64_t xcr0) {
  switch (e.function) {
    case 1:
      // MONITOR, VMX, SMX, PCID, x2APIC, TSC deadline.
      e.ecx &= ~bits({3, 5, 6, 17, 21, 24});
      break;
    case 7:
      if (e.index == 0) {
        // FSGSBASE (CR4 leaves it off), HLE, RTM, MPX, AVX-512, processor trace.
        e.ebx &= ~bits({0, 4, 11, 14, 16, 17, 21, 25, 26, 27, 28, 30, 31});
        // AVX-512, protection keys, WAITPKG, shadow stacks, LA57, ENQCMD.
        e.ecx &= ~bits({1, 3, 4, 5, 6, 7, 11, 12, 14, 16, 29, 31});
        // AVX-512, user interrupts, indirect branch tracking, AMX.
        e.edx &= ~bits({2, 3, 5, 8, 20, 22, 23, 24, 25});
      } else if (e.index == 1) {
        e.eax &= ~bits({5, 21});  // AVX-512 and AMX formats
      }
      break;
    case 0xd:
      if (e.index == 0) {
        e.eax &= static_cast<uint32_t>(xcr0);
        e.edx = 0;
      } else if (e.index == 1) {
        e.eax &= ~bits({3, 4});  // XSAVES, XFD
        e.ecx = e.edx = 0;
      } else if (e.index < 64 && ((xcr0 >> e.index) & 1) == 0) {
        e.eax = e.ebx = e.ecx = e.edx = 0;
      }
      break;
    case 0x14:
    case 0x1d:
    case 0x1e:
      e.eax = e.ebx = e.ecx = e.edx = 0;  // processor trace, AMX
      break;
    default:
      break;
  }
}

// No guest code reads or writes an MSR: programs run at CPL 3, the stubs do not. The filter says so
// once more, below whatever else might go wrong. KVM wants at least one range: an empty one.
Expected<void> deny_msrs(int vm) {
  uint8_t none[1] = {};
  kvm_msr_filter filter = {};
  filter.flags = KVM_MSR_FILTER_DEFAULT_DENY;
  filter.ranges[0].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
  filter.ranges[0].base = 0;
  filter.ranges[0].nmsrs = 8;
  filter.ranges[0].bitmap = none;
  if (ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter) < 0) {
    return fail_errno(Code::kUnavailable, "KVM_X86_SET_MSR_FILTER");
  }
  return {};
}

}  // namespace

const char* flavour_name(Flavour flavour) {
  return flavour == Flavour::kHardware ? "hardware" : "software";
}

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) ::close(fd_);
}

int UniqueFd::release() {
  int fd = fd_;
  fd_ = -1;
  return fd;
}

Expected<std::unique_ptr<Machine>> Machine::open(const char* path) {
  std::unique_ptr<Machine> machine(new Machine);
  machine->fd_ = UniqueFd(::open(path, O_RDWR | O_CLOEXEC));
  if (machine->fd_.get() < 0) {
    const char* advice = errno == EACCES ? "add this user to the group kvm"
                         : errno == ENOENT
                             ? "load the module kvm_amd, kvm_intel or kvm_pvm, or enable "
                               "virtualisation for this machine"
                             : "see the system's log";
    return fail(Code::kUnavailable,
                std::string("cannot open ") + path + ": " + std::strerror(errno) + "; " + advice);
  }
  if (auto done = machine->check_capabilities(); !done) return std::unexpected(done.error());
  if (auto done = machine->read_cpuid(); !done) return std::unexpected(done.error());
  if (auto done = probe(*machine); !done) return std::unexpected(done.error());
  return machine;
}

Expected<void> Machine::check_capabilities() {
  int version = ioctl(fd(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return fail(Code::kUnavailable, "this kernel's KVM speaks another API version");
  }
  struct Need {
    int capability;
    int value;
    const char* name;
  };
  static constexpr Need kNeeds[] = {
      {KVM_CAP_USER_MEMORY, 1, "KVM_CAP_USER_MEMORY"},
      {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS, "KVM_CAP_SYNC_REGS"},
      {KVM_CAP_IMMEDIATE_EXIT, 1, "KVM_CAP_IMMEDIATE_EXIT"},
      {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
       "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"},
      {KVM_CAP_XCRS, 1, "KVM_CAP_XCRS"},
      {KVM_CAP_XSAVE, 1, "KVM_CAP_XSAVE"},
      {KVM_CAP_X86_MSR_FILTER, 1, "KVM_CAP_X86_MSR_FILTER"},
  };
  for (const Need& need : kNeeds) {
    int have = ioctl(fd(), KVM_CHECK_EXTENSION, need.capability);
    if (have < 0 || (have & need.value) != need.value) {
      return fail(Code::kUnavailable, std::string("this kernel's KVM lacks ") + need.name +
                                          "; use Linux 5.10 or later");
    }
  }
  int bytes = ioctl(fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (bytes < static_cast<int>(sizeof(kvm_run))) {
    return fail_errno(Code::kUnavailable, "KVM_GET_VCPU_MMAP_SIZE");
  }
  run_bytes_ = static_cast<size_t>(bytes);
  return {};
}

Expected<void> Machine::read_cpuid() {
  cpuid_.nent = std::size(cpuid_.entries);
  if (ioctl(fd(), kGetSupportedCpuid, &cpuid_) < 0) {
    return fail_errno(Code::kUnavailable, "KVM_GET_SUPPORTED_CPUID");
  }
  // CPUID.1:ECX says nothing reliable about XSAVE here: a software KVM leaves the bit out and runs
  // the instruction all the same.
  uint64_t components = 0;
  for (uint32_t i = 0; i < cpuid_.nent; i++) {
    const kvm_cpuid_entry2& e = cpuid_.entries[i];
    if (e.function == 1) hwcap_ = e.edx;
    if (e.function == 0xd && e.index == 0) components = e.eax;
  }
  if ((components & kXcr0Sse) == 0) {
    return fail(Code::kUnavailable, "this machine's KVM does not offer XSAVE to guests");
  }
  xcr0_ = components & (kXcr0X87 | kXcr0Sse | kXcr0Avx);
  uint32_t kept = 0;
  for (uint32_t i = 0; i < cpuid_.nent; i++) {
    kvm_cpuid_entry2 e = cpuid_.entries[i];
    if (e.function >= 0x40000000 && e.function < 0x80000000) continue;
    filter_entry(e, xcr0_);
    cpuid_.entries[kept++] = e;
  }
  cpuid_.nent = kept;
  return {};
}

Expected<std::unique_ptr<VirtualMachine>> VirtualMachine::create(const Machine& machine,
                                                                 std::span<uint8_t> memory,
                                                                 bool log_dirty) {
  CHECK(memory.size() % kPageBytes == 0);
  std::unique_ptr<VirtualMachine> vm(new VirtualMachine);
  vm->pages_ = memory.size() / kPageBytes;
  vm->vm_ = UniqueFd(create_fd(machine.fd(), KVM_CREATE_VM));
  if (vm->vm_.get() < 0) return fail_errno(Code::kUnavailable, "KVM_CREATE_VM");
  if (auto denied = deny_msrs(vm->vm_.get()); !denied) return std::unexpected(denied.error());
  if (log_dirty) {
    kvm_enable_cap cap = {};
    cap.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    cap.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    if (ioctl(vm->vm_.get(), KVM_ENABLE_CAP, &cap) < 0) {
      return fail_errno(Code::kUnavailable, "KVM_ENABLE_CAP for the dirty log");
    }
  }
  kvm_userspace_memory_region region = {};
  region.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.memory_size = memory.size();
  region.userspace_addr = reinterpret_cast<uint64_t>(memory.data());
  if (ioctl(vm->vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0) {
    return fail_errno(Code::kUnavailable, "KVM_SET_USER_MEMORY_REGION");
  }
  vm->vcpu_ = UniqueFd(create_fd(vm->vm_.get(), KVM_CREATE_VCPU));
  if (vm->vcpu_.get() < 0) return fail_errno(Code::kUnavailable, "KVM_CREATE_VCPU");
  if (ioctl(vm->vcpu_.get(), kSetCpuid2, &machine.cpuid()) < 0) {
    return fail_errno(Code::kUnavailable, "KVM_SET_CPUID2");
  }
  void* run =
      mmap(nullptr, machine.run_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_.get(), 0);
  if (run == MAP_FAILED) return fail_errno(Code::kUnavailable, "mmap of the vCPU");
  vm->run_ = static_cast<kvm_run*>(run);
  vm->run_bytes_ = machine.run_bytes();
  vm->tsc_source_ = machine.tsc_source();
  return vm;
}

VirtualMachine::~VirtualMachine() {
  if (run_ != nullptr) munmap(run_, run_bytes_);
}

Expected<kvm_sregs> VirtualMachine::sregs() const {
  kvm_sregs sregs;
  if (ioctl(vcpu_.get(), KVM_GET_SREGS, &sregs) < 0) {
    return fail_errno(Code::kInternal, "KVM_GET_SREGS");
  }
  return sregs;
}

Expected<void> VirtualMachine::set_sregs(const kvm_sregs& sregs) {
  if (ioctl(vcpu_.get(), KVM_SET_SREGS, &sregs) < 0) {
    return fail_errno(Code::kInternal, "KVM_SET_SREGS");
  }
  return {};
}

Expected<void> VirtualMachine::set_msrs(std::span<const kvm_msr_entry> entries) {
  struct {
    uint32_t nmsrs;
    uint32_t padding;
    kvm_msr_entry entries[kMsrsMax];
  } table = {};
  CHECK(entries.size() <= kMsrsMax);
  table.nmsrs = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), table.entries);
  int set = ioctl(vcpu_.get(), kSetMsrs, &table);
  if (set != static_cast<int>(entries.size())) return fail_errno(Code::kInternal, "KVM_SET_MSRS");
  return {};
}

std::optional<uint64_t> VirtualMachine::tsc_offset() const {
  switch (tsc_source_) {
    case TscSource::kHost:
      return 0;
    case TscSource::kMsr:
      return tsc_offset_by_msr();
    case TscSource::kUnknown:
      break;
  }
  return std::nullopt;
}

std::optional<uint64_t> VirtualMachine::tsc_offset_by_msr() const {
  struct {
    uint32_t nmsrs = 1;
    uint32_t padding = 0;
    kvm_msr_entry entry = {};
  } table;
  table.entry.index = kMsrTsc;
  uint64_t before = __rdtsc();
  if (ioctl(vcpu_.get(), kGetMsrs, &table) != 1) return std::nullopt;
  return table.entry.data - (before + __rdtsc()) / 2;
}

Expected<void> VirtualMachine::set_xcr0(uint64_t xcr0) {
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = xcr0;
  if (ioctl(vcpu_.get(), KVM_SET_XCRS, &xcrs) < 0) {
    return fail_errno(Code::kInternal, "KVM_SET_XCRS");
  }
  return {};
}

Expected<XsaveArea> VirtualMachine::xsave() const {
  // KVM_GET_XSAVE fills 4096 bytes as long as no guest may use AMX.
  alignas(64) uint8_t all[4096] = {};
  if (ioctl(vcpu_.get(), kGetXsave, all) < 0) {
    return fail_errno(Code::kInternal, "KVM_GET_XSAVE");
  }
  XsaveArea area;
  std::memcpy(area.data(), all, area.size());
  return area;
}

Expected<void> VirtualMachine::set_xsave(const XsaveArea& area) {
  alignas(64) uint8_t all[4096] = {};
  std::memcpy(all, area.data(), area.size());
  if (ioctl(vcpu_.get(), kSetXsave, all) < 0) {
    return fail_errno(Code::kInternal, "KVM_SET_XSAVE");
  }
  return {};
}

int VirtualMachine::enter() { return ioctl(vcpu_.get(), KVM_RUN, 0) < 0 ? errno : 0; }

Expected<void> VirtualMachine::dirty_log(std::span<uint64_t> bitmap) {
  CHECK(bitmap.size() * 64 >= pages_);
  kvm_dirty_log log = {};
  log.dirty_bitmap = bitmap.data();
  if (ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &log) < 0) {
    return fail_errno(Code::kInternal, "KVM_GET_DIRTY_LOG");
  }
  return {};
}

Expected<void> VirtualMachine::clear_dirty(std::span<uint64_t> bitmap) {
  CHECK(bitmap.size() * 64 >= pages_);
  kvm_clear_dirty_log log = {};
  log.num_pages = static_cast<uint32_t>(pages_);
  log.dirty_bitmap = bitmap.data();
  if (ioctl(vm_.get(), KVM_CLEAR_DIRTY_LOG, &log) < 0) {
    return fail_errno(Code::kInternal, "KVM_CLEAR_DIRTY_LOG");
  }
  return {};
}

}  // namespace sluice::vmm
