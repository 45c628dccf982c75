#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "broker/amqp/limits.h"
#include "broker/amqp/methods.h"
#include "broker/amqp/wire.h"

namespace sluice::amqp {

enum class FrameType : uint8_t { kMethod = 1, kHeader = 2, kBody = 3, kHeartbeat = 8 };

inline constexpr uint8_t kFrameEnd = 0xCE;
inline constexpr std::string_view kProtocolHeader{"AMQP\0\0\x09\x01", 8};

// A whole frame inside the buffer it was read into.
struct Frame {
  uint8_t type;
  uint16_t channel;
  Bytes payload;
};

enum class FrameStatus { kWhole, kIncomplete, kTooLarge, kBadEnd };

// Takes the first frame of `bytes`; `consumed` is its length on the wire where it is whole. The
// size is checked against `frame_max` before any more bytes are waited for.
inline FrameStatus parse_frame(Bytes bytes, uint32_t frame_max, Frame& frame, size_t& consumed) {
  if (bytes.size() < kFrameHeaderBytes) return FrameStatus::kIncomplete;
  Reader reader(bytes);
  frame.type = reader.u8();
  frame.channel = reader.u16();
  uint32_t size = reader.u32();
  if (size > frame_max - kFrameOverheadBytes) return FrameStatus::kTooLarge;
  if (reader.left() < size + size_t{1}) return FrameStatus::kIncomplete;
  frame.payload = reader.take(size);
  if (reader.u8() != kFrameEnd) return FrameStatus::kBadEnd;
  consumed = kFrameOverheadBytes + size;
  return FrameStatus::kWhole;
}

template <typename Method>
void write_method(std::string& out, uint16_t channel, const Method& method) {
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(FrameType::kMethod));
  writer.u16(channel);
  size_t at = writer.size();
  writer.u32(0);
  encode(writer, method);
  writer.set_u32(at, static_cast<uint32_t>(writer.size() - at - 4));
  writer.u8(kFrameEnd);
}

// The header frame of a content of the basic class; `properties` are the flags and the property
// list as they go on the wire.
inline void write_content_header(std::string& out, uint16_t channel, Bytes properties,
                                 uint64_t body_bytes) {
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(FrameType::kHeader));
  writer.u16(channel);
  writer.u32(static_cast<uint32_t>(12 + properties.size()));
  writer.u16(static_cast<uint16_t>(ClassId::kBasic));
  writer.u16(0);
  writer.u64(body_bytes);
  writer.raw(properties);
  writer.u8(kFrameEnd);
}

// The frames of a content's body, or of a part of it.
inline void write_content_body(std::string& out, uint16_t channel, Bytes body, uint32_t frame_max) {
  Writer writer(out);
  while (!body.empty()) {
    Bytes part = body.first(std::min<size_t>(body.size(), frame_max - kFrameOverheadBytes));
    writer.u8(static_cast<uint8_t>(FrameType::kBody));
    writer.u16(channel);
    writer.long_string(part);
    writer.u8(kFrameEnd);
    body = body.subspan(part.size());
  }
}

inline void write_heartbeat(std::string& out) {
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(FrameType::kHeartbeat));
  writer.u16(0);
  writer.u32(0);
  writer.u8(kFrameEnd);
}

}  // namespace sluice::amqp
