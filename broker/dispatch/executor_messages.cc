#include <cstring>

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/dispatch/executor.h"
#include "broker/dispatch/limits.h"

// What is said on the executor's socket (schemas/executor.fbs); its process is in executor.cc.
namespace sluice::broker {

namespace {

using namespace dispatch;

constexpr size_t kLengthBytes = 4;
// What the buffers of frames keep between two of them.
constexpr size_t kKeptBytesMax = 1u << 20;

std::string text_of(const flatbuffers::String* text) { return text != nullptr ? text->str() : ""; }

std::string bytes_of(const flatbuffers::Vector<uint8_t>* bytes) {
  if (bytes == nullptr) return {};
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

flatbuffers::Offset<flatbuffers::Vector<uint8_t>> vector_of(flatbuffers::FlatBufferBuilder& builder,
                                                            std::string_view bytes) {
  if (bytes.empty()) return 0;
  return builder.CreateVector(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

size_t Executor::on_data(amqp::Bytes bytes) {
  size_t taken = 0;
  while (bytes.size() - taken >= kLengthBytes) {
    uint32_t length;
    std::memcpy(&length, bytes.data() + taken, kLengthBytes);
    if (length > kFrameMaxBytes) {
      spdlog::error("the executor sent a frame of {} bytes; ending it", length);
      uv_process_kill(process_, SIGKILL);
      return bytes.size();
    }
    if (bytes.size() - taken - kLengthBytes < length) break;
    if (!on_frame(bytes.subspan(taken + kLengthBytes, length))) {
      spdlog::error("the executor sent a malformed frame; ending it");
      uv_process_kill(process_, SIGKILL);
      return bytes.size();
    }
    taken += kLengthBytes + length;
  }
  return taken;
}

bool Executor::on_frame(amqp::Bytes frame) {
  // The frame lies anywhere in the read buffer; FlatBuffers wants its own alignment.
  frame_.resize(std::max(frame_.size(), (frame.size() + 7) / 8));
  std::memcpy(frame_.data(), frame.data(), frame.size());
  auto* data = reinterpret_cast<const uint8_t*>(frame_.data());
  flatbuffers::Verifier verifier(data, frame.size());
  if (!verifier.VerifyBuffer<schema::FromExecutor>(nullptr)) return false;
  const auto* message = flatbuffers::GetRoot<schema::FromExecutor>(data);
  switch (message->event_type()) {
    case schema::Event::Hello:
      on_hello(*message->event_as_Hello());
      break;
    case schema::Event::Loaded:
      on_loaded(*message->event_as_Loaded());
      break;
    case schema::Event::Result:
      on_result(*message->event_as_Result());
      break;
    case schema::Event::Stats:
      on_stats(*message->event_as_Stats());
      break;
    default:
      ignore(message->event_type());
      break;
  }
  if (frame_.size() * sizeof frame_[0] > kKeptBytesMax) std::vector<uint64_t>().swap(frame_);
  return true;
}

// It may be of another version, and have more to tell.
void Executor::ignore(schema::Event type) {
  uint64_t bit = uint64_t{1} << (static_cast<unsigned>(type) & 63);
  if ((events_ignored_ & bit) != 0) return;
  events_ignored_ |= bit;
  spdlog::warn("the executor sends an event of a type that is not known, {}: ignored",
               static_cast<unsigned>(type));
}

void Executor::on_hello(const schema::Hello& hello) {
  backend_ = text_of(hello.backend());
  workers_ = hello.workers();
  std::string unavailable = text_of(hello.unavailable());
  if (unavailable.empty()) {
    spdlog::info("the executor is ready: {}, {} workers", backend_, workers_);
    set_state(State::kRunning, "");
    if (sandbox() == "process") {
      spdlog::warn(
          "functions run in jailed processes, as --sandbox process asks for: the kernel's system "
          "calls are all that is between them and this machine, there is no virtual machine");
    }
  } else {
    spdlog::warn("functions can not run: {}", unavailable);
    set_state(State::kUnavailable, unavailable);
  }
  tell_waiters();
}

void Executor::on_loaded(const schema::Loaded& loaded) {
  auto found = loads_in_flight_.extract(loaded.function());
  if (found.empty()) return;
  found.mapped()({.outcome = loaded.outcome(),
                  .message = text_of(loaded.message()),
                  .at_first_read = loaded.at_first_read(),
                  .speaks_protocol = loaded.speaks_protocol(),
                  .load_us = loaded.load_us()});
}

void Executor::on_result(const schema::Result& result) {
  auto found = calls_in_flight_.extract(result.call());
  if (found.empty()) return;
  found.mapped()({.outcome = result.outcome(),
                  .exit_status = result.exit_status(),
                  .message = text_of(result.message()),
                  .output = bytes_of(result.output()),
                  .log = bytes_of(result.log()),
                  .run_us = result.run_us(),
                  .exits = result.exits(),
                  .dirty_pages = result.dirty_pages()});
}

void Executor::on_stats(const schema::Stats& stats) {
  memory_bytes_ = stats.memory_bytes();
  memory_budget_bytes_ = stats.memory_budget_bytes();
  if (stats.functions() == nullptr || !stats_) return;
  for (const auto* s : *stats.functions()) {
    stats_(s->function(), {.sandboxes = s->sandboxes(),
                           .running = s->running(),
                           .queued = s->queued(),
                           .target = s->target(),
                           .calls = s->calls(),
                           .warm_hits = s->warm_hits(),
                           .cold_starts = s->cold_starts(),
                           .clones = s->clones(),
                           .clone_us = s->clone_us(),
                           .resets = s->resets(),
                           .discarded = s->discarded(),
                           .dirty_pages = s->dirty_pages(),
                           .exits = s->exits(),
                           .run_us = s->run_us(),
                           .memory_bytes = s->memory_bytes()});
  }
}

std::string_view Executor::sandbox() const {
  if (state_ != State::kRunning) return "none";
  if (backend_.starts_with("kvm")) return "kvm";
  return backend_ == "process" ? "process" : "none";
}

void Executor::send(flatbuffers::FlatBufferBuilder& builder) {
  uint32_t length = builder.GetSize();
  if (!outgoing_.empty() || length > kSendPieceBytes) {
    outgoing_.push_back({builder.Release()});
    send_pieces();
    return;
  }
  stream_->out().append(reinterpret_cast<const char*>(&length), kLengthBytes);
  stream_->out().append(reinterpret_cast<const char*>(builder.GetBufferPointer()), length);
  stream_->touch();
}

// The socket takes a root file system slower than we do: of what it has not taken there is one
// copy.
void Executor::send_pieces() {
  while (!outgoing_.empty() && stream_->unsent_bytes() < kSendPieceBytes) {
    Outgoing& front = outgoing_.front();
    if (front.sent == 0) {
      auto length = static_cast<uint32_t>(front.frame.size());
      stream_->out().append(reinterpret_cast<const char*>(&length), kLengthBytes);
    }
    size_t count = std::min(front.frame.size() - front.sent, kSendPieceBytes);
    stream_->out().append(reinterpret_cast<const char*>(front.frame.data()) + front.sent, count);
    front.sent += count;
    if (front.sent == front.frame.size()) outgoing_.pop_front();
    stream_->touch();
  }
}

void Executor::load(const FunctionImage& image, std::function<void(LoadResult)> done) {
  CHECK(state_ == State::kRunning || state_ == State::kUnavailable);
  CHECK(!loads_in_flight_.contains(image.id));
  loads_in_flight_.emplace(image.id, std::move(done));
  flatbuffers::FlatBufferBuilder builder(image.image.size() + image.rootfs.size() + 4096);
  auto rootfs = vector_of(builder, image.rootfs);
  auto bytes = vector_of(builder, image.image);
  auto name = builder.CreateString(image.name);
  auto owner = builder.CreateString(image.owner);
  auto argv0 = builder.CreateString(image.argv0);
  auto image_path = builder.CreateString(image.image_path);
  auto args = builder.CreateVectorOfStrings(image.args);
  auto env = builder.CreateVectorOfStrings(image.env);
  const FunctionLimits& l = image.limits;
  auto limits = schema::CreateLimits(builder, l.memory_bytes, l.timeout_ms, l.output_bytes,
                                     l.log_bytes, l.open_files, l.tmpfs_bytes, l.cpu_ms, l.threads);
  auto load =
      schema::CreateLoad(builder, image.id, name, bytes, args, argv0, env, limits, owner, rootfs,
                         image.image_path.empty() ? 0 : image_path, image.concurrency);
  builder.Finish(schema::CreateToExecutor(builder, schema::Command::Load, load.Union()));
  send(builder);
}

void Executor::unload(uint64_t function) {
  if (state_ != State::kRunning) return;
  flatbuffers::FlatBufferBuilder builder;
  auto unload = schema::CreateUnload(builder, function);
  builder.Finish(schema::CreateToExecutor(builder, schema::Command::Unload, unload.Union()));
  send(builder);
}

uint64_t Executor::begin_call(std::function<void(CallResult)> done) {
  CHECK(state_ == State::kRunning || state_ == State::kUnavailable);
  ++calls_;
  calls_in_flight_.emplace_hint(calls_in_flight_.end(), ++last_call_, std::move(done));
  return last_call_;
}

void Executor::finish_invoke(uint64_t call, uint64_t function,
                             flatbuffers::Offset<flatbuffers::Vector<uint8_t>> input) {
  auto invoke = schema::CreateInvoke(builder_, call, function, input);
  builder_.Finish(schema::CreateToExecutor(builder_, schema::Command::Invoke, invoke.Union()));
  bool large = builder_.GetSize() > kKeptBytesMax;
  send(builder_);
  if (large) {
    builder_.Reset();
  } else {
    builder_.Clear();
  }
}

void Executor::invoke(uint64_t function, amqp::Bytes input, std::function<void(CallResult)> done) {
  uint64_t call = begin_call(std::move(done));
  finish_invoke(call, function, builder_.CreateVector(input.data(), input.size()));
}

void Executor::invoke(uint64_t function, const protocol::Invocation& invocation, size_t bytes,
                      std::function<void(CallResult)> done) {
  CHECK(bytes <= kInvocationMaxBytes);
  uint64_t call = begin_call(std::move(done));
  uint8_t* to = nullptr;
  auto input = builder_.CreateUninitializedVector(bytes, &to);
  protocol::encode(invocation, {to, bytes});
  finish_invoke(call, function, input);
}

}  // namespace sluice::broker
