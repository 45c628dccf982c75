#include "executor/service/frames.h"

#include <vector>

namespace sluice::executor {
namespace {

static_assert(static_cast<int>(Outcome::kOk) == static_cast<int>(schema::Outcome::ok));
static_assert(static_cast<int>(Outcome::kMemoryLimit) ==
              static_cast<int>(schema::Outcome::memory_limit));
static_assert(static_cast<int>(Outcome::kInternal) == static_cast<int>(schema::Outcome::internal));
static_assert(static_cast<int>(Outcome::kBadAnswer) ==
                  static_cast<int>(schema::Outcome::bad_answer) &&
              schema::Outcome::MAX == schema::Outcome::bad_answer);

schema::Outcome to_schema(Outcome outcome) { return static_cast<schema::Outcome>(outcome); }

template <typename T>
flatbuffers::DetachedBuffer finish(flatbuffers::FlatBufferBuilder& b, schema::Event type,
                                   flatbuffers::Offset<T> event) {
  b.Finish(schema::CreateFromExecutor(b, type, event.Union()));
  return b.Release();
}

std::span<const uint8_t> bytes_of(const flatbuffers::Vector<uint8_t>* bytes) {
  if (bytes == nullptr) return {};
  return {bytes->data(), bytes->size()};
}

}  // namespace

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
  program.image = bytes_of(load.image());
  program.rootfs = bytes_of(load.rootfs());
  if (load.image_path() != nullptr) program.image_path = load.image_path()->str();
  program.args.push_back(program.name);
  if (load.args() != nullptr) {
    for (const auto* text : *load.args()) program.args.push_back(text->str());
  }
  if (load.env() != nullptr) {
    for (const auto* text : *load.env()) program.env.push_back(text->str());
  }
  return program;
}

flatbuffers::DetachedBuffer hello_frame(const std::string& backend, const std::string& unavailable,
                                        uint32_t workers) {
  flatbuffers::FlatBufferBuilder b(256);
  auto version = b.CreateString(SLUICE_VERSION);
  auto name = b.CreateString(backend);
  flatbuffers::Offset<flatbuffers::String> why;
  if (!unavailable.empty()) why = b.CreateString(unavailable);
  return finish(b, schema::Event::Hello, schema::CreateHello(b, version, name, why, workers));
}

flatbuffers::DetachedBuffer loaded_frame(uint64_t function, const Image* image, Outcome outcome,
                                         const std::string& message, uint64_t load_us) {
  flatbuffers::FlatBufferBuilder b(256);
  auto text = b.CreateString(message);
  bool ok = image != nullptr;
  return finish(b, schema::Event::Loaded,
                schema::CreateLoaded(
                    b, function, to_schema(outcome), text, ok && image->at_first_read(), load_us,
                    ok ? image->memory_bytes() : 0, ok && image->speaks_protocol()));
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
  return finish(b, schema::Event::Result,
                schema::CreateResult(b, call, to_schema(r.ending.outcome), r.ending.exit_status,
                                     message, output, log, r.run_us, r.exits, r.dirty_pages));
}

flatbuffers::DetachedBuffer stats_frame(const PoolStats& stats) {
  flatbuffers::FlatBufferBuilder b(256 + stats.functions.size() * 160);
  std::vector<flatbuffers::Offset<schema::FunctionStats>> functions;
  functions.reserve(stats.functions.size());
  for (const FunctionStats& f : stats.functions) {
    functions.push_back(schema::CreateFunctionStats(
        b, f.function, f.sandboxes, f.running, f.queued, f.target, f.calls, f.warm_hits,
        f.cold_starts, f.clones, f.clone_us, f.resets, f.discarded, f.dirty_pages, f.exits,
        f.run_us, f.memory_bytes));
  }
  auto list = b.CreateVector(functions);
  return finish(b, schema::Event::Stats,
                schema::CreateStats(b, list, stats.memory_bytes, stats.memory_budget_bytes));
}

}  // namespace sluice::executor
