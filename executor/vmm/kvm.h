#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <linux/kvm.h>

#include "base/error.h"
#include "executor/vmm/clock.h"

// The ioctl layer: RAII around /dev/kvm, a VM with one memory slot and one vCPU. No policy here.
namespace sluice::vmm {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd();
  int get() const { return fd_; }
  int release();

 private:
  int fd_ = -1;
};

// The kernel's `struct kvm_cpuid2` ends in a flexible array inside a helper struct that C++ counts
// as a byte on some distributions, which changes the ioctl numbers derived from its size. This is
// the same layout with the room that we need.
struct CpuidTable {
  uint32_t nent = 0;
  uint32_t padding = 0;
  kvm_cpuid_entry2 entries[256] = {};
};

// The legacy region, the header, and AVX's upper halves (Intel SDM volume 1, 13.4).
using XsaveArea = std::array<uint8_t, 512 + 64 + 256>;

// Which of the two kinds of KVM this is: where a `syscall` instruction at CPL 3 leads.
enum class Flavour {
  kHardware,  // SVM or VMX: to LSTAR at CPL 0
  kSoftware,  // a pagetable-based KVM: to LSTAR, still at CPL 3
};
const char* flavour_name(Flavour flavour);  // "hardware", "software"

// What guests read as their time stamp counter.
enum class TscSource {
  kUnknown,
  kHost,  // the host's
  kMsr,   // the host's and what IA32_TSC is ahead of it
};

// /dev/kvm, opened and checked. Immutable after open(), so that any thread may use it; must outlive
// every VirtualMachine made from it.
class Machine {
 public:
  // Errors: kUnavailable with a sentence that says what is missing and what to do about it.
  static Expected<std::unique_ptr<Machine>> open(const char* path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  Flavour flavour() const { return flavour_; }
  const CpuidTable& cpuid() const { return cpuid_; }
  // The XSAVE components that guests may use: x87 and SSE, and AVX where the machine has it.
  uint64_t xcr0() const { return xcr0_; }
  TscSource tsc_source() const { return tsc_source_; }
  const TscRate& tsc_rate() const { return tsc_rate_; }
  uint32_t hwcap() const { return hwcap_; }  // CPUID.1:EDX, which is AT_HWCAP
  size_t run_bytes() const { return run_bytes_; }

 private:
  friend Expected<void> probe(Machine& machine);
  Machine() = default;
  Expected<void> check_capabilities();
  Expected<void> read_cpuid();

  UniqueFd fd_;
  Flavour flavour_ = Flavour::kHardware;
  CpuidTable cpuid_;
  uint64_t xcr0_ = 3;
  uint32_t hwcap_ = 0;
  TscSource tsc_source_ = TscSource::kUnknown;
  TscRate tsc_rate_;
  size_t run_bytes_ = 0;
};

// A VM with one vCPU. Used by one thread at a time; the memory given to it must outlive it.
class VirtualMachine {
 public:
  // With `log_dirty`, dirty_log() tells which pages the guest has written; a page stays in the log,
  // and writable, until clear_dirty() names it.
  static Expected<std::unique_ptr<VirtualMachine>> create(const Machine& machine,
                                                          std::span<uint8_t> memory,
                                                          bool log_dirty);
  ~VirtualMachine();
  VirtualMachine(const VirtualMachine&) = delete;
  VirtualMachine& operator=(const VirtualMachine&) = delete;

  Expected<kvm_sregs> sregs() const;
  Expected<void> set_sregs(const kvm_sregs& sregs);
  Expected<void> set_msrs(std::span<const kvm_msr_entry> entries);
  Expected<void> set_xcr0(uint64_t xcr0);
  // The vCPU's XSAVE area, in the standard format; components beyond AVX are not included.
  Expected<XsaveArea> xsave() const;
  Expected<void> set_xsave(const XsaveArea& area);

  kvm_run& run() { return *run_; }
  // KVM_RUN. Returns 0 or an errno; EINTR after a signal or with immediate_exit set.
  int enter();
  // What the guest's time stamp counter is ahead of the host's; none where that can not be told.
  std::optional<uint64_t> tsc_offset() const;
  std::optional<uint64_t> tsc_offset_by_msr() const;

  // `bitmap` has one bit a page. Only with log_dirty.
  Expected<void> dirty_log(std::span<uint64_t> bitmap);
  // Forgets the pages named in `bitmap` and write-protects them again.
  Expected<void> clear_dirty(std::span<uint64_t> bitmap);

 private:
  VirtualMachine() = default;
  TscSource tsc_source_ = TscSource::kUnknown;
  UniqueFd vm_;
  UniqueFd vcpu_;
  kvm_run* run_ = nullptr;
  size_t run_bytes_ = 0;
  uint64_t pages_ = 0;
};

}  // namespace sluice::vmm
