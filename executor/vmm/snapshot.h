#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "executor/vmm/guest.h"
#include "executor/vmm/program.h"

namespace sluice::vmm {

// A program as it waits for its input, ready to be cloned. Immutable: threads share it.
class Snapshot {
 public:
  // Runs the program until it first wants input. One that ends before that is taken at its start
  // instead, and warning() says so: each call then runs it from there.
  // Errors: kInvalid when the image or the limits can not be served, kUnavailable when this machine
  // lacks something, kInternal.
  static Expected<std::shared_ptr<const Snapshot>> load(const Machine& machine,
                                                        const Program& program,
                                                        const Limits& limits);

  bool at_first_read() const { return at_first_read_; }
  // It waits for an invocation (sdk/PROTOCOL.md), not for stdin.
  bool speaks_protocol() const { return speaks_protocol_; }
  const std::string& warning() const { return warning_; }
  const Limits& limits() const { return limits_; }
  uint64_t memory_bytes() const { return ram_->data_bytes(); }

  // For Sandbox.
  const std::string& name() const { return name_; }
  const Layout& layout() const { return layout_; }
  const std::shared_ptr<const RamTemplate>& ram() const { return ram_; }
  const KernelState& kernel() const { return *kernel_; }
  const CpuState& cpu() const { return cpu_; }
  const Syscall& pending_call() const { return pending_; }
  const CallIo& io() const { return io_; }  // printed while it initialised: part of every result
  uint64_t random_address() const { return random_address_; }

 private:
  Snapshot() = default;
  // `wants_space` becomes whether it ended after it was refused address space.
  Expected<void> take(const Machine& machine, const Executable& executable, uint64_t reserve_bytes,
                      bool run_it, bool& wants_space);

  std::string name_;
  Limits limits_;
  Layout layout_;
  bool at_first_read_ = false;
  bool speaks_protocol_ = false;
  std::string warning_;
  std::shared_ptr<const RamTemplate> ram_;
  std::unique_ptr<const KernelState> kernel_;
  CpuState cpu_{};
  Syscall pending_{};
  CallIo io_;
  uint64_t random_address_ = 0;
};

// Whether these limits can be served at all. Errors: kInvalid, naming the limit and its range.
Expected<void> check_limits(const Limits& limits);

}  // namespace sluice::vmm
