#pragma once

#include <cstddef>
#include <cstdint>

// What a peer may ask for. Every length on the wire is checked against one of these before it is
// believed.
namespace sluice::amqp {

// Connection.Tune's offers; a client may lower them, not raise them.
inline constexpr uint32_t kFrameMaxBytes = 131072;
inline constexpr uint32_t kFrameMinBytes = 4096;  // AMQP 0-9-1 section 4.2.3
inline constexpr uint16_t kChannelMax = 2047;
inline constexpr uint16_t kHeartbeatSeconds = 60;

// Type, channel and size before a frame's payload; the end octet behind it.
inline constexpr size_t kFrameHeaderBytes = 7;
inline constexpr size_t kFrameOverheadBytes = kFrameHeaderBytes + 1;

inline constexpr uint64_t kBodyMaxBytes = 128ull << 20;

// Field tables: nesting, and fields over all levels. The second bounds what a table of empty values
// can be made to allocate.
inline constexpr int kTableDepthMax = 16;
inline constexpr size_t kTableFieldsMax = 4096;

// Of a queue, exchange or binding: these are compared with each other.
inline constexpr size_t kArgumentsMax = 256;

inline constexpr uint64_t kHandshakeMs = 10'000;
// After our Connection.Close, how long the peer's Close-Ok is awaited.
inline constexpr uint64_t kCloseMs = 3'000;

// Unsent output at which a connection takes no more deliveries, and at which it is not read from.
inline constexpr size_t kOutputDeliverMaxBytes = 1u << 20;
inline constexpr size_t kOutputReadMaxBytes = 4u << 20;
// With more than this unsent, no more of an external body is read.
inline constexpr size_t kOutputBodyMaxBytes = 256u << 10;
// Answers with an external body that a client may have outstanding before it is not read from.
inline constexpr size_t kOutputBodiesMax = 16;

static_assert(kFrameMaxBytes >= kFrameMinBytes);
static_assert(kOutputDeliverMaxBytes > 2 * kFrameMaxBytes);
static_assert(kOutputReadMaxBytes > kOutputDeliverMaxBytes);

}  // namespace sluice::amqp
