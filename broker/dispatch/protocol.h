#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "broker/amqp/properties.h"
#include "broker/amqp/wire.h"

// The function protocol, the broker's side (sdk/PROTOCOL.md): invocations are encoded, answers
// decoded. Without state; from any thread. Everything here views bytes that somebody else holds.
namespace sluice::broker::protocol {

// A message as a record of a call.
struct Record {
  uint64_t id = 0;
  int64_t published_at_ms = 0;
  uint32_t attempt = 1;
  bool redelivered = false;
  amqp::Bytes body;
  std::string_view exchange, routing_key;
  amqp::Bytes properties;  // AMQP's, as published; empty: none. Malformed ones count as none
};

struct Window {
  uint64_t start_ms = 0;
  uint64_t end_ms = 0;
  uint64_t number = 0;
};

struct Invocation {
  uint32_t timeout_ms = 0;
  bool last_of_window = false;
  std::optional<amqp::Bytes> state;
  std::optional<uint64_t> state_version;
  std::optional<std::string_view> key;
  std::optional<Window> window;
  std::span<const Record> records;
};

// How long its frame is. Also of one that is over kInvocationMaxBytes, which must not be encoded.
size_t encoded_size(const Invocation& invocation);
// Writes the frame to `to`, which has encoded_size(). The deadline is left to the executor.
void encode(const Invocation& invocation, std::span<uint8_t> to);

// At least what a record with these sizes takes in a frame: for sums without a look at it.
constexpr uint64_t record_size_bound(uint64_t body_bytes, size_t properties_bytes) {
  // The shortest header that grows most, an 8-bit integer without a name, grows from 3 bytes to 16.
  return body_bytes + 6 * properties_bytes + 1024;
}
// What an invocation takes beyond its records, without a state.
inline constexpr size_t kInvocationOverheadBytes = 1024;

// What a call gave back, in the order of the answer. A view of its frame.
struct Answer {
  struct Failed {
    uint32_t record;
    std::string_view message;
  };
  struct Result {
    std::optional<uint32_t> record;  // without: of the call as a whole
    amqp::Bytes payload;
  };
  struct Log {
    uint8_t level;
    std::string_view text;
  };
  // A message to publish, well-formed; read_output() reads it.
  struct Output {
    amqp::Bytes items;
  };
  static constexpr std::string_view kLevelNames[] = {"debug", "info", "warning", "error"};

  bool drop_state = false;
  std::optional<std::string_view> failure;
  std::optional<amqp::Bytes> state;
  std::vector<Failed> failed;
  std::vector<Result> results;
  std::vector<Output> outputs;
  std::vector<Log> logs;

  // Why each record failed; null for those that did not. Empty where none did.
  std::vector<const std::string_view*> failures_by_record(uint32_t record_count) const;
};

// Decodes the answer to a call with `record_count` records, whatever the bytes are. kInvalid with a
// sentence that names the rule which is broken.
Expected<Answer> decode(amqp::Bytes frame, uint32_t record_count);

struct OutputMessage {
  std::string_view exchange, routing_key;
  amqp::Bytes body;
  amqp::Properties properties;
  uint64_t delay_ms = 0;
};
OutputMessage read_output(const Answer::Output& output);
// Where it goes, alone.
struct OutputTarget {
  std::string_view exchange, routing_key;
};
OutputTarget read_target(const Answer::Output& output);

// An answer with the frame that it views: neither copied nor moved.
struct AnswerFrame {
  explicit AnswerFrame(std::string frame) : bytes(std::move(frame)) {}
  AnswerFrame(const AnswerFrame&) = delete;
  AnswerFrame& operator=(const AnswerFrame&) = delete;

  const std::string bytes;
  Answer answer;
};

// The text's start, cut where a character ends.
std::string_view cut_text(std::string_view text, size_t bytes_max);

}  // namespace sluice::broker::protocol
