#include "executor/vmm/snapshot.h"

#include <fmt/format.h>

#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

Expected<void> check_range(const char* what, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return {};
  return fail(Code::kInvalid, fmt::format("the limit {} is {}; it must lie between {} and {}", what,
                                          value, low, high));
}

}  // namespace

Expected<void> check_limits(const Limits& l) {
  for (const auto& checked :
       {check_range("memory_bytes", l.memory_bytes, kMemoryBytesMin, kMemoryBytesMax),
        check_range("timeout_ms", l.timeout_ms, 1, kTimeoutMsMax),
        check_range("output_bytes", l.output_bytes, 0, kOutputBytesMax),
        check_range("log_bytes", l.log_bytes, 0, kLogBytesMax),
        check_range("cpu_ms", l.cpu_ms, 0, kTimeoutMsMax),
        check_range("threads", l.threads, 1, kThreadsMax),
        check_range("open_files", l.open_files, kOpenFilesMin, kOpenFilesMax),
        check_range("tmpfs_bytes", l.tmpfs_bytes, 0, kTmpfsBytesMax)}) {
    if (!checked) return checked;
  }
  return {};
}

Expected<std::shared_ptr<const Snapshot>> Snapshot::load(const Machine& machine,
                                                         const Program& program,
                                                         const Limits& limits) {
  if (auto checked = check_limits(limits); !checked) return std::unexpected(checked.error());
  auto executable = find_executable(program);
  if (!executable) return std::unexpected(executable.error());
  std::shared_ptr<Snapshot> snapshot(new Snapshot);
  snapshot->name_ = executable->path;
  snapshot->limits_ = limits;
  bool wants_space = false;
  for (uint64_t reserve = 0;;) {
    if (auto taken = snapshot->take(machine, *executable, reserve, true, wants_space); !taken) {
      return std::unexpected(taken.error());
    }
    if (!wants_space || reserve == kReserveBytesMax) break;
    reserve = reserve == 0 ? kReserveBytesMin : reserve * 4;
  }
  if (!snapshot->at_first_read_) {
    if (auto taken = snapshot->take(machine, *executable, 0, false, wants_space); !taken) {
      return std::unexpected(taken.error());
    }
  }
  return snapshot;
}

Expected<void> Snapshot::take(const Machine& machine, const Executable& executable,
                              uint64_t reserve_bytes, bool run_it, bool& wants_space) {
  wants_space = false;
  auto layout =
      make_layout(executable.image, limits_.memory_bytes & ~(kPageBytes - 1), reserve_bytes);
  if (!layout) return std::unexpected(layout.error());
  layout_ = *layout;
  auto ram = GuestRam::create(layout_.total_bytes);
  if (!ram) return std::unexpected(ram.error());
  write_kernel_area(**ram, layout_, machine.flavour(), machine.xcr0());
  auto created =
      Guest::create(machine, layout_, std::move(*ram), name_, limits_, executable.rootfs, false);
  if (!created) return std::unexpected(created.error());
  std::unique_ptr<Guest> guest = std::move(*created);
  auto start = load_program(machine, layout_, executable, *guest, random_address_);
  if (!start) return std::unexpected(start.error());
  cpu_ = *start;

  if (run_it) {
    guest->enter_at(cpu_, 0);
    Guest::Stop stop = guest->run(now_ns() + limits_.timeout_ms * 1'000'000ll);
    if (!stop.needs_input) {
      if (stop.ending.outcome == Outcome::kInternal) {
        return fail(Code::kInternal, stop.ending.message);
      }
      wants_space = guest->kernel().refused_reservation();
      warning_ = fmt::format("it ended before it read stdin ({}), so every call starts it anew",
                             stop.ending.message.empty() ? "exit status 0" : stop.ending.message);
      return {};
    }
    auto xsave = guest->vm().xsave();
    if (!xsave) return std::unexpected(xsave.error());
    cpu_ = guest->cpu_state();
    pending_ = guest->pending_call();
    speaks_protocol_ = guest->kernel().wanted_input() == InputSource::kInvocation;
    auto* data =
        reinterpret_cast<ResumeData*>(guest->ram().scratch(kResumeDataOffset, sizeof(ResumeData)));
    data->xsave = resumable_xsave(*xsave, machine.xcr0());
    data->rdx = cpu_.regs.rdx;
    at_first_read_ = true;
    warning_.clear();
  }
  kernel_ = std::make_unique<const KernelState>(guest->kernel().capture());
  if (speaks_protocol_) guest->kernel().take_output_as_log();
  io_ = std::move(guest->kernel().io());
  io_.source = speaks_protocol_ ? InputSource::kInvocation : InputSource::kStdin;
  auto sealed = GuestRam::seal(Guest::release_ram(std::move(guest)));
  if (!sealed) return std::unexpected(sealed.error());
  ram_ = std::move(*sealed);
  return {};
}

}  // namespace sluice::vmm
