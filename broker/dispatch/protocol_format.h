#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

// The numbers of sdk/PROTOCOL.md, and what its two directions share.
namespace sluice::broker::protocol {

inline constexpr uint16_t kVersion = 1;
inline constexpr size_t kLengthBytes = 4;
inline constexpr size_t kItemBytes = 5;  // tag and length in front of an item's content

inline constexpr uint16_t kLastOfWindow = 1;
inline constexpr uint32_t kRedelivered = 1;
inline constexpr uint16_t kDropState = 1;
inline constexpr uint32_t kWholeCall = 0xffffffff;

enum Tag : uint8_t {
  kState = 1,
  kStateVersion = 2,
  kKey = 3,
  kWindow = 4,
  kRecord = 5,
  kBody = 16,
  kExchange = 17,
  kRoutingKey = 18,
  kContentType = 19,
  kContentEncoding = 20,
  kMessageId = 21,
  kCorrelationId = 22,
  kReplyTo = 23,
  kType = 24,
  kHeader = 25,
  kFailure = 32,
  kFailed = 33,
  kNewState = 34,
  kResult = 35,
  kOutput = 36,
  kLog = 37,
  kDelayMs = 38,
};

enum HeaderKind : uint8_t {
  kNone = 0,
  kText = 1,
  kBytes = 2,
  kInteger = 3,
  kFloat = 4,
  kTruth = 5,
  kTime = 6,
  kNested = 7,  // the type's letter, F or A, and what AMQP puts behind it
};

bool is_utf8(std::string_view text);

}  // namespace sluice::broker::protocol
