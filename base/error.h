#pragma once

#include <expected>
#include <string>
#include <utility>

namespace sluice {

// What kind of failure an Error is; callers branch on it, people read the message.
enum class Code {
  kInvalid,      // the caller's input is wrong
  kNotFound,     // the thing named does not exist
  kExists,       // it exists already, with other properties
  kUnavailable,  // a part that is needed is not running or not present
  kLimit,        // a configured or documented limit was hit
  kIo,           // the operating system or the disk failed
  kCorrupt,      // stored or received data fails its checks
  kInternal,     // a defect of ours that could be contained
};

// An environment's or a caller's failure, as a value. `message` is a sentence its reader can act
// on.
struct Error {
  Code code;
  std::string message;
};

template <typename T = void>
using Expected = std::expected<T, Error>;

inline std::unexpected<Error> fail(Code code, std::string message) {
  return std::unexpected(Error{code, std::move(message)});
}

}  // namespace sluice
