// What runs on the service's workers: loading functions and running calls.

#include <algorithm>
#include <chrono>
#include <list>

#include "executor/service/limits.h"
#include "executor/service/service.h"
#include "executor/vmm/kvm_backend.h"
#include "executor/vmm/watchdog.h"

namespace sluice::executor {
namespace {

Limits limits_of(const schema::Limits& l) {
  return {.memory_bytes = l.memory_bytes(),
          .timeout_ms = l.timeout_ms(),
          .cpu_ms = l.cpu_ms(),
          .output_bytes = l.output_bytes(),
          .log_bytes = l.log_bytes(),
          .open_files = l.open_files(),
          .threads = l.threads(),
          .tmpfs_bytes = l.tmpfs_bytes()};
}

Program program_of(const schema::Load& load) {
  Program program;
  program.name = load.argv0() != nullptr ? load.argv0()->str() : load.name()->str();
  if (load.image() != nullptr) program.image = {load.image()->data(), load.image()->size()};
  program.args.push_back(program.name);
  if (load.args() != nullptr) {
    for (const auto* text : *load.args()) program.args.push_back(text->str());
  }
  if (load.env() != nullptr) {
    for (const auto* text : *load.env()) program.env.push_back(text->str());
  }
  return program;
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

schema::Outcome to_schema(Outcome outcome) { return static_cast<schema::Outcome>(outcome); }

flatbuffers::DetachedBuffer loaded_frame(const Function& f, int64_t load_us) {
  flatbuffers::FlatBufferBuilder b(256);
  auto message = b.CreateString(f.message);
  auto loaded = schema::CreateLoaded(
      b, f.id, to_schema(f.failure), message, f.image && f.image->at_first_read(),
      static_cast<uint64_t>(load_us), f.image ? f.image->memory_bytes() : 0,
      f.image && f.image->speaks_protocol());
  b.Finish(schema::CreateFromExecutor(b, schema::Event::Loaded, loaded.Union()));
  return b.Release();
}

flatbuffers::DetachedBuffer result_frame(uint64_t call, const CallResult& r) {
  flatbuffers::FlatBufferBuilder b(256 + r.output.size() + r.log.size());
  auto bytes = [&b](const std::string& text) {
    return b.CreateVector(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  };
  flatbuffers::Offset<flatbuffers::Vector<uint8_t>> log, output;
  flatbuffers::Offset<flatbuffers::String> message;
  if (!r.log.empty()) log = bytes(r.log);
  if (!r.output.empty()) output = bytes(r.output);
  if (!r.ending.message.empty()) message = b.CreateString(r.ending.message);
  auto result = schema::CreateResult(b, call, to_schema(r.ending.outcome), r.ending.exit_status,
                                     message, output, log, r.run_us, r.exits, r.dirty_pages);
  b.Finish(schema::CreateFromExecutor(b, schema::Event::Result, result.Union()));
  return b.Release();
}

}  // namespace

// A worker's warm sandboxes, the most recently used first.
class Service::Warm {
 public:
  struct Entry {
    std::shared_ptr<Function> function;
    std::unique_ptr<Sandbox> sandbox;
  };

  // The sandbox for this function, or null.
  Sandbox* find(const Function* function) {
    auto found = index_.find(function);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->sandbox.get();
  }
  Sandbox* add(std::shared_ptr<Function> function, std::unique_ptr<Sandbox> sandbox) {
    if (entries_.size() >= kWarmSandboxesMax) drop(std::prev(entries_.end()));
    const Function* key = function.get();
    entries_.push_front({std::move(function), std::move(sandbox)});
    index_[key] = entries_.begin();
    return entries_.front().sandbox.get();
  }
  void drop(const Function* function) {
    if (auto found = index_.find(function); found != index_.end()) drop(found->second);
  }
  void drop_unloaded() {
    for (auto e = entries_.begin(); e != entries_.end();) {
      auto next = std::next(e);
      if (e->function->unloaded) drop(e);
      e = next;
    }
  }
  void clear() {
    entries_.clear();
    index_.clear();
  }
  bool empty() const { return entries_.empty(); }
  uint64_t unloads_seen = 0;

 private:
  void drop(std::list<Entry>::iterator entry) {
    index_.erase(entry->function.get());
    entries_.erase(entry);
  }
  std::list<Entry> entries_;
  std::unordered_map<const Function*, std::list<Entry>::iterator> index_;
};

void Service::work() {
  Warm warm;
  uint64_t done = 0;
  while (auto job = pop(warm, done)) {
    done = function_of(*job);
    if (auto* to_load = std::get_if<LoadJob>(&*job)) {
      load(*to_load);
    } else {
      run(std::get<CallJob>(*job), warm);
    }
  }
}

// Waits for a job; meanwhile gives up warm sandboxes whose function is gone or which nobody needs.
std::optional<Service::Job> Service::pop(Warm& warm, uint64_t done) {
  std::unique_lock lock(mutex_);
  if (done != 0) queue_.done(done);
  auto wanted = [&] { return queue_.runnable() || unloads_ != warm.unloads_seen; };
  for (;;) {
    if (warm.empty()) {
      jobs_.wait(lock, wanted);
    } else if (!jobs_.wait_for(lock, std::chrono::seconds(kIdleSeconds), wanted)) {
      lock.unlock();
      warm.clear();
      lock.lock();
      continue;
    }
    if (unloads_ != warm.unloads_seen) {
      warm.unloads_seen = unloads_;
      lock.unlock();
      warm.drop_unloaded();
      lock.lock();
      continue;
    }
    bool was_full = queue_.size() >= kQueuedCallsMax || queued_bytes_ >= kQueuedBytesMax;
    Job job = std::move(queue_.pop()->second);
    queued_bytes_ -= bytes_of(job);
    bool more = queue_.runnable();
    lock.unlock();
    if (was_full) room_.notify_one();
    if (more) jobs_.notify_one();
    return job;
  }
}

void Service::load(LoadJob& job) {
  Function& f = *job.function;
  int64_t start_ns = vmm::now_ns();
  Program program = program_of(*job.load);
  Limits limits = limits_of(*job.load->limits());
  if (backend_ != nullptr) {
    auto image = backend_->load(program, limits);
    if (image) {
      f.image = std::move(*image);
      f.message = f.image->warning();
    } else {
      f.failure = outcome_of(image.error().code);
      f.message = image.error().message;
    }
  } else if (auto checked = vmm::check_program(program, limits); !checked) {
    f.failure = outcome_of(checked.error().code);
    f.message = checked.error().message;
  } else {
    f.failure = Outcome::kUnavailable;
    f.message = unavailable_;
  }
  auto frame = loaded_frame(f, (vmm::now_ns() - start_ns) / 1000);
  std::vector<Call> waiting;
  {
    std::lock_guard lock(mutex_);
    f.state = f.image ? Function::State::kReady : Function::State::kFailed;
    waiting.swap(f.waiting);
    if (f.image) {
      for (Call& call : waiting) {
        queued_bytes_ += call.frame.size();
        queue_.push(f.id, CallJob{job.function, std::move(call)});
      }
    }
  }
  outbox_.send(std::move(frame));
  if (f.image) {
    jobs_.notify_all();
  } else {
    for (const Call& call : waiting) send_failure(call.id, f.failure, f.message);
  }
}

void Service::run(CallJob& job, Warm& warm) {
  const Function* f = job.function.get();
  Sandbox* sandbox = warm.find(f);
  if (sandbox == nullptr) {
    auto clone = f->image->clone();
    if (!clone) {
      return send_failure(job.call.id, outcome_of(clone.error().code), clone.error().message);
    }
    sandbox = warm.add(job.function, std::move(*clone));
  }
  CallResult result = sandbox->call(job.call.input);
  outbox_.send(result_frame(job.call.id, result));
  if (!sandbox->ready() || f->unloaded) warm.drop(f);
}

void Service::send_failure(uint64_t call, Outcome outcome, const std::string& message) {
  CallResult result;
  result.ending = {outcome, 0, message};
  outbox_.send(result_frame(call, result));
}

}  // namespace sluice::executor
