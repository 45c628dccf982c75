#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace sluice::amqp {

// Reply codes of AMQP 0-9-1 (section 1.2 of the generated reference) as RabbitMQ uses them.
enum class ReplyCode : uint16_t {
  kSuccess = 200,
  kNoRoute = 312,
  kConnectionForced = 320,
  kInvalidPath = 402,
  kAccessRefused = 403,
  kNotFound = 404,
  kResourceLocked = 405,
  kPreconditionFailed = 406,
  kFrameError = 501,
  kSyntaxError = 502,
  kCommandInvalid = 503,
  kChannelError = 504,
  kUnexpectedFrame = 505,
  kResourceError = 506,
  kNotAllowed = 530,
  kNotImplemented = 540,
  kInternalError = 541,
};

// What a peer did wrong, as the close that tells it so. Whether it costs the channel or the
// connection follows from the code.
struct ProtocolError {
  ReplyCode code;
  std::string text;  // the reply-text, with the code's name in front

  bool closes_connection() const {
    switch (code) {
      case ReplyCode::kNoRoute:
      case ReplyCode::kAccessRefused:
      case ReplyCode::kNotFound:
      case ReplyCode::kResourceLocked:
      case ReplyCode::kPreconditionFailed:
        return false;
      default:
        return true;
    }
  }
};

std::string_view name_of(ReplyCode code);

template <typename T = void>
using Outcome = std::expected<T, ProtocolError>;

inline std::unexpected<ProtocolError> refuse(ReplyCode code, std::string_view text) {
  return std::unexpected(
      ProtocolError{code, std::string(name_of(code)) + " - " + std::string(text)});
}

}  // namespace sluice::amqp
