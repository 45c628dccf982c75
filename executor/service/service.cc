#include "executor/service/service.h"

#include <algorithm>

#include "base/check.h"
#include "executor/service/limits.h"
#include "executor/vmm/kvm_backend.h"

namespace sluice::executor {
namespace {

static_assert(static_cast<int>(Outcome::kOk) == static_cast<int>(schema::Outcome::ok));
static_assert(static_cast<int>(Outcome::kMemoryLimit) ==
              static_cast<int>(schema::Outcome::memory_limit));
static_assert(static_cast<int>(Outcome::kInternal) == static_cast<int>(schema::Outcome::internal));
static_assert(static_cast<int>(Outcome::kBadAnswer) ==
                  static_cast<int>(schema::Outcome::bad_answer) &&
              schema::Outcome::MAX == schema::Outcome::bad_answer);

unsigned cpus() { return std::max(1u, std::thread::hardware_concurrency()); }

unsigned workers_of(const Service::Options& options) {
  return std::min(options.workers != 0 ? options.workers : cpus() * kWorkersPerCpu, kWorkersMax);
}

// What one function may take: never all workers.
unsigned share_of(unsigned workers) {
  return std::max(1u, std::min(kSharePerCpu * cpus(), workers / 2));
}

}  // namespace

Service::Service(const Options& options)
    : options_(options), outbox_(options.fd), queue_(share_of(workers_of(options))) {
  options_.workers = workers_of(options);
  auto backend = vmm::KvmBackend::open(options_.kvm_path.c_str());
  if (backend) {
    backend_ = std::move(*backend);
  } else {
    unavailable_ = backend.error().message;
  }
}

Expected<void> Service::serve() {
  send_hello();
  for (unsigned i = 0; i < options_.workers; i++) workers_.emplace_back([this] { work(); });
  FrameReader reader(options_.fd);
  for (;;) {
    auto frame = reader.next();
    if (!frame) return std::unexpected(frame.error());
    if (!*frame) return {};
    if (auto handled = handle(std::move(**frame)); !handled) return handled;
  }
}

void Service::send_hello() {
  flatbuffers::FlatBufferBuilder b(256);
  std::string backend = backend_ ? backend_->name() : "none";
  auto version = b.CreateString(SLUICE_VERSION);
  auto name = b.CreateString(backend);
  flatbuffers::Offset<flatbuffers::String> why;
  if (!backend_) why = b.CreateString(unavailable_);
  auto hello = schema::CreateHello(b, version, name, why, options_.workers);
  b.Finish(schema::CreateFromExecutor(b, schema::Event::Hello, hello.Union()));
  outbox_.send(b.Release());
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
      handle_unload(message->command_as_Unload()->function());
      return {};
    default:
      return fail(Code::kCorrupt, "a command that this executor does not know");
  }
}

void Service::handle_load(std::vector<uint8_t> frame, const schema::Load& load) {
  auto function = std::make_shared<Function>();
  function->id = load.function();
  function->name = load.name()->str();
  {
    std::lock_guard lock(mutex_);
    // Loading a number again replaces it, as after an Unload.
    if (auto old = functions_.find(function->id); old != functions_.end()) {
      old->second->unloaded = true;
      unloads_++;
    }
    functions_[function->id] = function;
  }
  push(LoadJob{std::move(function), std::move(frame), &load});
}

void Service::handle_invoke(std::vector<uint8_t> frame, const schema::Invoke& invoke) {
  Call call;
  call.id = invoke.call();
  if (const auto* input = invoke.input()) call.input = {input->data(), input->size()};
  std::shared_ptr<Function> function;
  {
    std::lock_guard lock(mutex_);
    auto found = functions_.find(invoke.function());
    if (found != functions_.end()) function = found->second;
    if (function && function->state == Function::State::kLoading) {
      call.frame = std::move(frame);
      function->waiting.push_back(std::move(call));
      return;
    }
  }
  if (!function) {
    return send_failure(
        call.id, Outcome::kInternal,
        "function " + std::to_string(invoke.function()) + " is not loaded in this executor");
  }
  if (function->state == Function::State::kFailed) {
    return send_failure(call.id, function->failure, function->message);
  }
  call.frame = std::move(frame);
  push(CallJob{std::move(function), std::move(call)});
}

void Service::handle_unload(uint64_t id) {
  std::lock_guard lock(mutex_);
  auto found = functions_.find(id);
  if (found == functions_.end()) return;
  found->second->unloaded = true;
  functions_.erase(found);
  unloads_++;
  jobs_.notify_all();
}

uint64_t Service::function_of(const Job& job) {
  return std::visit([](const auto& j) { return j.function->id; }, job);
}

size_t Service::bytes_of(const Job& job) {
  const auto* to_load = std::get_if<LoadJob>(&job);
  return to_load != nullptr ? to_load->frame.size() : std::get<CallJob>(job).call.frame.size();
}

void Service::push(Job job) {
  std::unique_lock lock(mutex_);
  room_.wait(lock,
             [this] { return queue_.size() < kQueuedCallsMax && queued_bytes_ < kQueuedBytesMax; });
  queued_bytes_ += bytes_of(job);
  uint64_t function = function_of(job);
  queue_.push(function, std::move(job));
  bool wake = queue_.runnable();
  lock.unlock();
  if (wake) jobs_.notify_one();
}

}  // namespace sluice::executor
