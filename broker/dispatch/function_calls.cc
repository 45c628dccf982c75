#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "broker/dispatch/functions.h"
#include "broker/dispatch/limits.h"
#include "broker/dispatch/outputs.h"

// How Functions calls them.
namespace sluice::broker {

namespace {

using namespace dispatch;

int64_t now_ms() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

CallResult refused(schema::Outcome outcome, std::string message) {
  return {.outcome = outcome, .message = std::move(message)};
}

CallResult too_large(uint64_t bytes) {
  return refused(schema::Outcome::input_limit, "the message has " + std::to_string(bytes) +
                                                   " bytes; a function takes at most " +
                                                   std::to_string(kInputMaxBytes));
}

}  // namespace

struct Functions::Call {
  VersionPtr version;
  CallInput input;
  Caller caller;
  std::function<void(CallResult)> done;
  uint64_t large_bytes = 0;              // of external bodies
  std::vector<std::string> held_bodies;  // these
  size_t bodies_missing = 0;
};

void Functions::call(const VersionPtr& version, CallInput input, Caller caller,
                     std::function<void(CallResult)> done) {
  CHECK(!input.records.empty());
  auto call = std::make_shared<Call>(
      Call{version, std::move(input), std::move(caller), std::move(done), 0, {}, 0});
  if (version->superseded) {
    if (auto newer = newest(version->name)) call->version = std::move(newer);
  }
  ++call->version->pending;
  uint64_t bytes = 0;
  for (const auto& record : call->input.records) bytes += record.body.size();
  for (const auto& body : call->input.bodies) {
    if (body != nullptr) call->large_bytes += body->bytes();
  }
  bytes += call->large_bytes;
  if (bytes > kInputMaxBytes) {
    call->large_bytes = 0;
    finish_later(call, too_large(bytes));
  } else if (call->large_bytes > 0) {
    large_calls_.push_back(std::move(call));
    start_large_calls();
  } else {
    start(call);
  }
}

void Functions::start_large_calls() {
  while (!large_calls_.empty() &&
         large_call_bytes_ + large_calls_.front()->large_bytes <= kLargeInputsMaxBytes) {
    CallPtr call = std::move(large_calls_.front());
    large_calls_.pop_front();
    large_call_bytes_ += call->large_bytes;
    read_bodies(call);
  }
}

void Functions::read_bodies(const CallPtr& call) {
  const auto& bodies = call->input.bodies;
  call->held_bodies.resize(bodies.size());
  call->bodies_missing = static_cast<size_t>(
      std::ranges::count_if(bodies, [](const auto& b) { return b != nullptr; }));
  auto error = std::make_shared<std::string>();
  for (size_t i = 0; i < bodies.size(); ++i) {
    if (bodies[i] == nullptr) continue;
    bodies_.read_whole(bodies[i], [this, call, i, error](Expected<std::string> read) {
      if (read) {
        call->held_bodies[i] = std::move(*read);
        call->input.records[i].body = amqp::as_bytes(call->held_bodies[i]);
      } else {
        *error = read.error().message;
      }
      if (--call->bodies_missing > 0) return;
      if (error->empty()) return start(call);
      finish(*call, refused(schema::Outcome::internal, "the message can not be read: " + *error));
    });
  }
}

void Functions::start(const CallPtr& call) {
  prepare(call->version);
  if (call->version->state == FunctionVersion::State::kLoading) {
    call->version->waiting.push_back([this, call] { run(call); });
  } else {
    run(call);
  }
}

void Functions::run(const CallPtr& call) {
  using State = FunctionVersion::State;
  const FunctionVersion& version = *call->version;
  if (version.state != State::kReady) {
    return finish_later(call,
                        refused(version.state == State::kFailed ? schema::Outcome::bad_image
                                                                : schema::Outcome::unavailable,
                                version.state_reason));
  }
  auto done = [this, call](CallResult result) { finish(*call, std::move(result)); };
  const auto& records = call->input.records;
  if (!version.speaks_protocol()) {
    if (records.size() > 1) {
      // The version before spoke the protocol. Nothing ran: the subscription tries them one by one.
      return finish_later(
          call, refused(schema::Outcome::unavailable, "a plain program takes one message a call"));
    }
    return executor_.invoke(version.id, records[0].body, std::move(done));
  }
  protocol::Invocation invocation{.timeout_ms = version.config.limits.timeout_ms,
                                  .state = call->input.state,
                                  .records = records};
  size_t bytes = protocol::encoded_size(invocation);
  if (bytes > kInvocationMaxBytes) return finish_later(call, too_large(bytes));
  executor_.invoke(version.id, invocation, bytes, std::move(done));
}

// What the program wrote becomes an answer, or the call a failed one.
void Functions::take_answer(const Call& call, CallResult& result) const {
  auto frame = std::make_shared<protocol::AnswerFrame>(std::exchange(result.output, {}));
  auto record_count = static_cast<uint32_t>(call.input.records.size());
  auto answer = protocol::decode(amqp::as_bytes(frame->bytes), record_count);
  if (!answer) {
    result.outcome = schema::Outcome::bad_answer;
    result.message = "the function's answer breaks the protocol: " + answer.error().message;
    return;
  }
  frame->answer = std::move(*answer);
  const protocol::Answer& given = frame->answer;
  if (call.input.settles && !given.failure) {
    if (auto possible = check_answer(given, virtual_host_); !possible) {
      result.outcome = schema::Outcome::bad_answer;
      result.message = possible.error().message;
      return;
    }
  }
  result.answer = std::move(frame);
  if (given.failure) {
    result.answer_failed = true;
    result.message = protocol::cut_text(*given.failure, kMessageMaxBytes);
  } else if (!given.failed.empty()) {
    auto failures = given.failures_by_record(record_count);
    auto count = record_count - static_cast<uint32_t>(std::ranges::count(failures, nullptr));
    result.answer_failed = count == record_count;
    result.message = protocol::cut_text(given.failed.front().message, kMessageMaxBytes);
    if (record_count > 1) {
      result.message = std::to_string(count) + " of " + std::to_string(record_count) +
                       " records failed, the first one: " + result.message;
    }
  }
}

void Functions::finish(Call& call, CallResult result) {
  if (call.version->speaks_protocol() && result.ok()) take_answer(call, result);
  note(call, result);
  --call.version->pending;
  unload_superseded(*call.version);
  large_call_bytes_ -= call.large_bytes;
  call.held_bodies.clear();
  if (call.large_bytes > 0) start_large_calls();
  auto done = std::move(call.done);
  done(std::move(result));
}

void Functions::finish_later(const CallPtr& call, CallResult result) {
  refusals_.push_back([this, call, result = std::move(result)] { finish(*call, result); });
  refusals_wakeup_.send();
}

void Functions::note(const Call& call, const CallResult& result) {
  FunctionVersion& version = *call.version;
  ++version.calls;
  if (!result.ok()) ++version.failures;
  if (result.ok() && result.message.empty() && result.log.empty() &&
      (result.answer == nullptr || result.answer->answer.logs.empty())) {
    return;
  }
  auto found = functions_.find(version.name);
  if (found == functions_.end()) return;
  found->second.log.add({.time_ms = now_ms(),
                         .version = version.version,
                         .source = call.caller.source,
                         .attempt = call.caller.attempt,
                         .outcome = std::string(result.outcome_name()),
                         .message = result.message,
                         .log = log_of(result)});
}

}  // namespace sluice::broker
