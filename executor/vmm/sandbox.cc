#include "executor/vmm/sandbox.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "executor/vmm/random.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {

Expected<std::unique_ptr<Sandbox>> Sandbox::clone(const Machine& machine,
                                                  std::shared_ptr<const Snapshot> snapshot) {
  std::unique_ptr<Sandbox> sandbox(new Sandbox);
  sandbox->snapshot_ = std::move(snapshot);
  const Snapshot& s = *sandbox->snapshot_;
  auto ram = GuestRam::clone(s.ram());
  if (!ram) return std::unexpected(ram.error());
  auto guest =
      Guest::create(machine, s.layout(), std::move(*ram), s.name(), s.limits(), nullptr, true);
  if (!guest) return std::unexpected(guest.error());
  sandbox->guest_ = std::move(*guest);
  if (auto set = sandbox->guest_->set_sregs(s.cpu().sregs); !set) {
    return std::unexpected(set.error());
  }
  sandbox->reset_ =
      std::make_unique<MemoryReset>(sandbox->guest_->vm(), sandbox->guest_->ram(), s.layout());
  return sandbox;
}

uint64_t Sandbox::memory_bytes() const {
  return kKernelBytesPerVm + reset_->hot_pages() * kPageBytes;
}

CallResult Sandbox::call(std::span<const uint8_t> input) {
  CHECK(ready_);
  CallResult result;
  int64_t start_ns = now_ns();
  Guest::Stop stop = start_and_run(input);
  result.run_us =
      static_cast<uint32_t>(std::min<int64_t>((now_ns() - start_ns) / 1000, UINT32_MAX));
  result.exits = stop.exits;
  result.ending = std::move(stop.ending);
  result.output = std::move(guest_->kernel().io().output);
  result.log = std::move(guest_->kernel().io().log);
  ready_ = !stop.broken;
  if (ready_) put_back(result);
  return result;
}

Guest::Stop Sandbox::start_and_run(std::span<const uint8_t> input) {
  const Snapshot& s = *snapshot_;
  int64_t deadline_ns = now_ns() + s.limits().timeout_ms * 1'000'000ll;
  Kernel& kernel = guest_->kernel();
  CallIo io = s.io();
  io.input = input;
  if (s.speaks_protocol()) {
    io.deadline_realtime_ns = realtime_ns() + s.limits().timeout_ms * 1'000'000ll;
  }
  kernel.restore(s.kernel(), std::move(io));
  kernel.set_segment_bases(s.cpu().sregs.fs.base, s.cpu().sregs.gs.base);
  // Fresh bytes for who asks for AT_RANDOM during the call. What start-up code made of the old
  // ones, such as stack protector canaries, is shared by all clones.
  const Layout& layout = s.layout();
  fill_random({guest_->ram().writable(layout.ram + (s.random_address() - layout.window), 16), 16});

  uint64_t rax = 0;
  if (s.at_first_read()) {
    if (kernel.serve(s.pending_call(), deadline_ns) == Kernel::Step::kEnded) {
      Guest::Stop stop;
      stop.ending = kernel.ending();
      return stop;
    }
    rax = static_cast<uint64_t>(kernel.result());
  }
  guest_->enter_at(s.cpu(), rax);
  return guest_->run(deadline_ns);
}

// Registers, FPU and flags are set at every entry, the kernel's state by restore(); left are memory
// and the special registers, of which a program can change segments and their bases.
void Sandbox::put_back(CallResult& result) {
  auto restored = reset_->reset(guest_->space().map(), snapshot_->kernel().memory);
  if (!restored) {
    ready_ = false;
    return;
  }
  result.dirty_pages = *restored;
  if (std::memcmp(&guest_->sregs(), &snapshot_->cpu().sregs, sizeof(kvm_sregs)) != 0) {
    ready_ = guest_->set_sregs(snapshot_->cpu().sregs).has_value();
  }
}

}  // namespace sluice::vmm
