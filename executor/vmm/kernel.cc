#include "executor/vmm/kernel.h"

#include <cerrno>

#include <fmt/format.h>

#include "executor/vmm/syscall_names.h"
#include "executor/vmm/syscalls.h"

namespace sluice::vmm {

Kernel::Kernel(std::string name, const Limits& limits, AddressSpace& space,
               std::shared_ptr<const RootFs> rootfs)
    : name_(std::move(name)), limits_(limits), space_(space), state_(limits, std::move(rootfs)) {
  for (size_t i = 0; i < name_.size() && i < 15; i++) state_.thread_name[i] = name_[i];
}

Kernel::Step Kernel::serve(const Syscall& call, int64_t deadline_ns) {
  deadline_ns_ = deadline_ns;
  needs_input_ = waits_ = false;
  call_ = call;
  const SyscallRule* rule = SyscallTable::find(call.number);
  if (rule == nullptr) {
    ending_ =
        end_by(Outcome::kForbiddenSyscall, 0,
               fmt::format("the program made the system call {} ({}), which functions may not "
                           "use",
                           syscall_name(call.number), call.number));
    return Step::kEnded;
  }
  result_ = rule->handler != nullptr ? (this->*rule->handler)(call) : rule->fixed_result;
  if (result_ == -EMFILE) refuse(-EMFILE, "open files", limits_.open_files);
  if (result_ == -ENOSPC) {
    bool full = state_.fs->nodes_used() < kTmpfsNodesMax;
    refuse(-ENOSPC, full ? "bytes in its file system" : "files and directories",
           full ? limits_.tmpfs_bytes : kTmpfsNodesMax);
  }
  if (needs_input_) return Step::kNeedsInput;
  if (ending_) return Step::kEnded;
  if (!waits_ && state_.threads->has_current() && state_.threads->current().retry) {
    state_.threads.edit().current().retry = false;
  }
  return waits_ ? Step::kWaits : Step::kReturn;
}

KernelState Kernel::capture() const {
  KernelState state = state_;
  state.memory = space_.map();
  return state;
}

void Kernel::restore(const KernelState& state, CallIo io) {
  state_ = state;
  space_.set_map(state.memory);
  io_ = std::move(io);
  ending_.reset();
  fs_base_.reset();
  gs_base_.reset();
  new_thread_.reset();
  needs_input_ = waits_ = false;
}

void Kernel::set_segment_bases(uint64_t fs, uint64_t gs) {
  fs_now_ = fs;
  gs_now_ = gs;
}

bool Kernel::lacks_input(InputSource source) {
  needs_input_ = !io_.input.has_value();
  wanted_input_ = source;
  return needs_input_;
}

std::span<const uint8_t> Kernel::input_of(InputSource source) const {
  return io_.input && io_.source == source ? *io_.input : std::span<const uint8_t>();
}

Ending Kernel::end_by(Outcome outcome, int exit_status, std::string message) const {
  bool may_be_a_limit = outcome == Outcome::kExitStatus || outcome == Outcome::kSignal ||
                        outcome == Outcome::kException;
  const Refusal& refused = state_.refusal;
  if (!may_be_a_limit || refused.outcome == Outcome::kOk) {
    return {outcome, exit_status, std::move(message)};
  }
  if (refused.outcome == Outcome::kMemoryLimit) {
    return {Outcome::kMemoryLimit, exit_status,
            fmt::format("the memory limit of {} bytes was reached (a request for {} bytes was "
                        "refused); then {}",
                        limits_.memory_bytes, refused.amount, message)};
  }
  return {refused.outcome, exit_status,
          fmt::format("the limit of {} {} was reached; then {}", refused.limit_value, refused.limit,
                      message)};
}

int64_t Kernel::refuse_memory(uint64_t bytes) {
  state_.refusal = {.outcome = Outcome::kMemoryLimit, .amount = bytes};
  return -ENOMEM;
}

int64_t Kernel::refuse(int64_t error, const char* limit, uint64_t limit_value) {
  state_.refusal = {.outcome = Outcome::kResourceLimit, .limit = limit, .limit_value = limit_value};
  return error;
}

}  // namespace sluice::vmm
