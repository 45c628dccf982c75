#include "executor/service/service.h"

#include <algorithm>
#include <utility>

#include <sched.h>

#include "executor/pool/clock.h"
#include "executor/pool/limits.h"
#include "executor/service/frames.h"
#include "executor/service/limits.h"
#include "executor/vmm/kvm_backend.h"

namespace sluice::executor {
namespace {

// Those that this process may use. (std::thread's count opens a file, which the jail forbids.)
unsigned cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
}

Service::Options completed(Service::Options options) {
  options.workers =
      std::min(options.workers != 0 ? options.workers : cpus() * kWorkersPerCpu, kWorkersMax);
  return options;
}

// What one function may take: never all slots.
unsigned share_of(unsigned workers) {
  return std::max(1u, std::min(kSharePerCpu * cpus(), workers / 2));
}

Outcome outcome_of(Code code) {
  switch (code) {
    case Code::kInvalid:
      return Outcome::kBadImage;
    case Code::kUnavailable:
      return Outcome::kUnavailable;
    default:
      return Outcome::kInternal;
  }
}

}  // namespace

Service::Service(const Options& options)
    : options_(completed(options)),
      outbox_(options_.fd),
      pools_({.slots = options_.workers,
              .share = share_of(options_.workers),
              .making_max = cpus() * kMakingPerCpu,
              .memory_budget_bytes = options_.memory_budget_bytes,
              .queued_calls_max = kQueuedCallsMax,
              .queued_bytes_max = kQueuedBytesMax,
              .answer = [this](uint64_t call,
                               const CallResult& r) { outbox_.send(result_frame(call, r)); },
              .stats = [this](const PoolStats& stats) { outbox_.send(stats_frame(stats)); }}) {}

Expected<void> Service::serve() {
  bool can_run = options_.backend != nullptr;
  outbox_.send(hello_frame(can_run ? options_.backend->name() : "none",
                           can_run ? "" : options_.unavailable, options_.workers));
  FrameReader reader(options_.fd);
  for (;;) {
    auto frame = reader.next();
    if (!frame) return std::unexpected(frame.error());
    if (!*frame) return {};
    if (auto handled = handle(std::move(**frame)); !handled) return handled;
  }
}

Expected<void> Service::handle(std::vector<uint8_t> frame) {
  flatbuffers::Verifier verifier(frame.data(), frame.size());
  if (!verifier.VerifyBuffer<schema::ToExecutor>(nullptr)) {
    return fail(Code::kCorrupt, "a frame that is not a valid ToExecutor buffer");
  }
  const auto* message = flatbuffers::GetRoot<schema::ToExecutor>(frame.data());
  switch (message->command_type()) {
    case schema::Command::Load:
      handle_load(std::move(frame), *message->command_as_Load());
      return {};
    case schema::Command::Invoke:
      handle_invoke(std::move(frame), *message->command_as_Invoke());
      return {};
    case schema::Command::Unload:
      pools_.unload(message->command_as_Unload()->function());
      return {};
    default:
      return fail(Code::kCorrupt, "a command that this executor does not know");
  }
}

void Service::handle_load(std::vector<uint8_t> frame, const schema::Load& load) {
  std::string owner = load.owner() != nullptr ? load.owner()->str() : "";
  uint64_t number = load.function();
  Function* function = pools_.add(number, owner, load.concurrency());
  size_t bytes = frame.size();
  loader_.push(owner, bytes, [this, function, number, &load, kept = std::move(frame)] {
    this->load(function, number, load);
  });
}

void Service::handle_invoke(std::vector<uint8_t> frame, const schema::Invoke& invoke) {
  uint64_t function = invoke.function();
  Call call;
  call.id = invoke.call();
  if (const auto* input = invoke.input()) call.input = {input->data(), input->size()};
  call.frame = std::move(frame);
  pools_.invoke(function, std::move(call));
}

void Service::load(Function* function, uint64_t number, const schema::Load& load) {
  SteadyClock clock;
  int64_t start_ns = clock.now_ns();
  Program program = program_of(load);
  Limits limits = limits_of(*load.limits());
  Expected<std::shared_ptr<const Image>> image;
  if (options_.backend != nullptr) {
    image = options_.backend->load(program, limits);
  } else if (auto checked = vmm::check_program(program, limits); !checked) {
    image = std::unexpected(checked.error());
  } else {
    image = fail(Code::kUnavailable, options_.unavailable);
  }
  auto load_us = static_cast<uint64_t>((clock.now_ns() - start_ns) / 1000);
  // Before the results of calls that wait for it.
  if (image) {
    outbox_.send(loaded_frame(number, image->get(), Outcome::kOk, (*image)->warning(), load_us));
    pools_.loaded(function, std::move(*image));
  } else {
    Outcome outcome = outcome_of(image.error().code);
    outbox_.send(loaded_frame(number, nullptr, outcome, image.error().message, load_us));
    pools_.failed(function, outcome, image.error().message);
  }
}

}  // namespace sluice::executor
