#include "executor/process/process_backend.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "executor/process/elf_check.h"
#include "executor/process/limits.h"
#include "executor/process/running.h"
#include "executor/vmm/limits.h"
#include "executor/vmm/snapshot.h"

namespace sluice::process {
namespace {

using executor::CallResult;
using executor::Limits;
using executor::Outcome;

constexpr uint32_t kWatchAll = kWatchStdin | kWatchProtocol | kWatchName;

class ProcessImage : public executor::Image, public std::enable_shared_from_this<ProcessImage> {
 public:
  ProcessImage(const Spawner& spawner, Fd keeper, const Limits& limits)
      : spawner_(spawner), keeper_(std::move(keeper)), limits_(limits) {}

  Expected<void> initialise();
  Expected<std::unique_ptr<executor::Sandbox>> clone() const override;
  Expected<std::unique_ptr<Running>> start() const;

  bool at_first_read() const override { return at_first_read_; }
  bool speaks_protocol() const override { return watch_ == kWatchProtocol; }
  const std::string& warning() const override { return warning_; }
  uint64_t memory_bytes() const override { return kKernelBytesPerProcess + shared_bytes_; }
  void set_shared_bytes(uint64_t bytes) { shared_bytes_ = bytes; }

 private:
  const Spawner& spawner_;
  Fd keeper_;
  Limits limits_;
  uint32_t watch_ = kWatchAll;
  bool at_first_read_ = false;
  std::string warning_;
  uint64_t shared_bytes_ = 0;
};

class ProcessSandbox : public executor::Sandbox {
 public:
  ProcessSandbox(std::shared_ptr<const ProcessImage> image, std::unique_ptr<Running> waiting)
      : image_(std::move(image)), waiting_(std::move(waiting)) {}

  CallResult call(std::span<const uint8_t> input) override;
  bool ready() const override { return ready_; }
  uint64_t memory_bytes() const override {
    return waiting_ ? waiting_->memory_bytes() : kKernelBytesPerProcess;
  }

 private:
  std::shared_ptr<const ProcessImage> image_;
  std::unique_ptr<Running> waiting_;  // none for a program that does not wait for input
  bool ready_ = true;
};

Expected<std::unique_ptr<Running>> ProcessImage::start() const {
  auto running = Running::start(keeper_.get(), watch_, limits_);
  if (!running && spawner_.is_gone()) {
    return fail(Code::kUnavailable,
                "the spawner of sandbox processes has ended; restart the executor");
  }
  return running;
}

// Runs it once, to see whether it waits for input, and on which descriptor.
Expected<void> ProcessImage::initialise() {
  auto running = start();
  if (!running) return std::unexpected(running.error());
  (*running)->wait_until_ready();
  if (auto failed = (*running)->failed()) return std::unexpected(*failed);
  if (auto fd = (*running)->wants_input()) {
    at_first_read_ = true;
    watch_ = *fd == 3 ? kWatchProtocol : *fd == kByName ? kWatchStdin | kWatchName : kWatchStdin;
    return {};
  }
  watch_ = kWatchStdin;
  std::string how = (*running)->ending().message;
  warning_ = fmt::format("it ended before it read stdin ({}), so every call starts it anew",
                         how.empty() ? "exit status 0" : how);
  return {};
}

Expected<std::unique_ptr<executor::Sandbox>> ProcessImage::clone() const {
  std::unique_ptr<Running> waiting;
  if (at_first_read_) {
    auto running = start();
    if (!running) return std::unexpected(running.error());
    waiting = std::move(*running);
    waiting->wait_until_ready();
    if (auto failed = waiting->failed()) return std::unexpected(*failed);
  }
  return std::make_unique<ProcessSandbox>(shared_from_this(), std::move(waiting));
}

CallResult ProcessSandbox::call(std::span<const uint8_t> input) {
  CHECK(ready_);
  if (!waiting_) {
    auto running = image_->start();
    if (!running) {
      ready_ = false;
      CallResult result;
      result.ending = {Outcome::kUnavailable, 0, running.error().message};
      return result;
    }
    waiting_ = std::move(*running);
  }
  // Of one that does not wait for input, the call is all it does, and is timed as such.
  if (image_->at_first_read()) waiting_->wait_until_ready();
  CallResult result = waiting_->call(input);
  waiting_.reset();
  ready_ = result.ending.outcome != Outcome::kUnavailable;
  if (ready_ && image_->at_first_read()) {
    if (auto next = image_->start()) waiting_ = std::move(*next);
  }
  return result;
}

Expected<void> check_program(const executor::Program& program, const Limits& limits) {
  if (auto checked = vmm::check_limits(limits); !checked) return checked;
  auto beyond = [](const char* what, uint64_t value, uint64_t low, uint64_t high) {
    return fail(Code::kInvalid, fmt::format("the limit {} is {}; it must lie between {} and {}",
                                            what, value, low, high));
  };
  if (limits.threads < 1 || limits.threads > kThreadsMax) {
    return beyond("threads", limits.threads, 1, kThreadsMax);
  }
  if (limits.cpu_ms > kCpuMsMax) return beyond("cpu_ms", limits.cpu_ms, 0, kCpuMsMax);
  uint64_t bytes = program.name.size();
  for (const auto& text : program.args) bytes += text.size() + 1 + sizeof(uint64_t);
  for (const auto& text : program.env) bytes += text.size() + 1 + sizeof(uint64_t);
  uint64_t stack = std::min(vmm::kStackBytesMax, limits.memory_bytes / vmm::kStackShare);
  uint64_t bytes_max = std::min(vmm::kArgumentBytesMax, stack / 2);
  if (bytes > bytes_max) {
    return fail(Code::kInvalid, fmt::format("the arguments and the environment take {} bytes; the "
                                            "limit is {}",
                                            bytes, bytes_max));
  }
  if (program.image.empty() && (program.rootfs.empty() || program.image_path.empty())) {
    return fail(Code::kInvalid, "there is no image: give one, or a path in a root file system");
  }
  if (program.image.empty()) return {};
  return check_elf(program.image, !program.rootfs.empty(), limits.memory_bytes, stack);
}

}  // namespace

Expected<std::unique_ptr<ProcessBackend>> ProcessBackend::open(const Spawner& spawner) {
  // A keeper without an image: all that a sandbox needs but the program.
  auto keeper = spawner.prepare({}, {}, {});
  if (!keeper) {
    return fail(Code::kUnavailable,
                "this machine can not run sandbox processes: " + keeper.error().message);
  }
  return std::unique_ptr<ProcessBackend>(new ProcessBackend(spawner));
}

Expected<std::shared_ptr<const executor::Image>> ProcessBackend::load(
    const executor::Program& program, const Limits& limits) {
  if (auto checked = check_program(program, limits); !checked) {
    return std::unexpected(checked.error());
  }
  auto keeper = spawner_.prepare({.limits = limits,
                                  .name = program.name,
                                  .image_path = program.image.empty() ? program.image_path : "",
                                  .args = program.args,
                                  .env = program.env},
                                 program.image, program.rootfs);
  if (!keeper) {
    // Whatever is wrong with an image is its owner's to mend.
    bool limit = keeper.error().code == Code::kLimit;
    return fail(limit ? Code::kInvalid : keeper.error().code, keeper.error().message);
  }
  auto image = std::make_shared<ProcessImage>(spawner_, std::move(*keeper), limits);
  image->set_shared_bytes(program.image.size() + program.rootfs.size());
  if (auto initialised = image->initialise(); !initialised) {
    return std::unexpected(initialised.error());
  }
  return image;
}

}  // namespace sluice::process
