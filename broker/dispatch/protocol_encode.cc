#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "base/check.h"
#include "broker/dispatch/protocol.h"
#include "broker/dispatch/protocol_format.h"

namespace sluice::broker::protocol {

namespace {

static_assert(std::endian::native == std::endian::little);

// Two sinks for one walk over an invocation: the first tells how long the frame will be, so that
// the second can write it where it is sent from.
class Measure {
 public:
  void raw(const void*, size_t count) { size_ += count; }
  size_t size() const { return size_; }
  void set_u32(size_t, uint32_t) {}

 private:
  size_t size_ = 0;
};

class Write {
 public:
  explicit Write(std::span<uint8_t> to) : begin_(to.data()), at_(to.data()) {}

  void raw(const void* bytes, size_t count) {
    if (count > 0) std::memcpy(at_, bytes, count);
    at_ += count;
  }
  size_t size() const { return static_cast<size_t>(at_ - begin_); }
  void set_u32(size_t at, uint32_t value) { std::memcpy(begin_ + at, &value, sizeof value); }

 private:
  uint8_t* begin_;
  uint8_t* at_;
};

template <typename Sink, typename T>
void integer(Sink& sink, T value) {
  sink.raw(&value, sizeof value);
}

template <typename Sink>
void begin_item(Sink& sink, Tag tag, size_t bytes) {
  integer(sink, static_cast<uint8_t>(tag));
  integer(sink, static_cast<uint32_t>(bytes));
}

template <typename Sink>
void item(Sink& sink, Tag tag, std::string_view content) {
  begin_item(sink, tag, content.size());
  sink.raw(content.data(), content.size());
}

// The properties that a record shows, in AMQP's encoding.
struct PropertyViews {
  std::string_view content_type, content_encoding, correlation_id, reply_to, message_id, type;
  amqp::Bytes headers;
};

PropertyViews views_of(amqp::Bytes properties) {
  PropertyViews views;
  if (properties.empty()) return views;
  amqp::Reader reader(properties);
  uint16_t flags = reader.u16();
  auto has = [&](int bit) { return (flags >> bit & 1) != 0; };
  if (has(15)) views.content_type = reader.short_string();
  if (has(14)) views.content_encoding = reader.short_string();
  if (has(13)) views.headers = reader.long_string();
  if (has(12)) reader.u8();  // delivery_mode
  if (has(11)) reader.u8();  // priority
  if (has(10)) views.correlation_id = reader.short_string();
  if (has(9)) views.reply_to = reader.short_string();
  if (has(8)) reader.short_string();  // expiration
  if (has(7)) views.message_id = reader.short_string();
  if (has(6)) reader.u64();  // timestamp
  if (has(5)) views.type = reader.short_string();
  return reader.ok() ? views : PropertyViews();
}

template <typename Sink>
void header(Sink& sink, std::string_view name, HeaderKind kind, std::string_view value) {
  begin_item(sink, kHeader, 1 + 2 + name.size() + value.size());
  integer(sink, static_cast<uint8_t>(kind));
  integer(sink, static_cast<uint16_t>(name.size()));
  sink.raw(name.data(), name.size());
  sink.raw(value.data(), value.size());
}

template <typename Sink, typename T>
void number(Sink& sink, std::string_view name, HeaderKind kind, T value) {
  header(sink, name, kind, {reinterpret_cast<const char*>(&value), sizeof value});
}

// One field of a table, whose name has been read. False where the rest can not be read.
template <typename Sink>
bool field(Sink& sink, std::string_view name, amqp::Reader& reader) {
  auto whole = [&](auto value) { number(sink, name, kInteger, static_cast<int64_t>(value)); };
  switch (uint8_t letter = reader.u8()) {
    case 't':
      number(sink, name, kTruth, static_cast<uint8_t>(reader.u8() != 0));
      break;
    case 'b':
      whole(static_cast<int8_t>(reader.u8()));
      break;
    case 'B':
      whole(reader.u8());
      break;
    case 's':
      whole(static_cast<int16_t>(reader.u16()));
      break;
    case 'u':
      whole(reader.u16());
      break;
    case 'I':
      whole(static_cast<int32_t>(reader.u32()));
      break;
    case 'i':
      whole(reader.u32());
      break;
    case 'l':
      whole(reader.u64());
      break;
    case 'L': {
      uint64_t value = reader.u64();
      // Digits are exact where a signed number is not.
      if (value > INT64_MAX) {
        header(sink, name, kText, std::to_string(value));
      } else {
        whole(value);
      }
      break;
    }
    case 'f':
      number(sink, name, kFloat, static_cast<double>(std::bit_cast<float>(reader.u32())));
      break;
    case 'd':
      number(sink, name, kFloat, std::bit_cast<double>(reader.u64()));
      break;
    case 'D': {
      uint8_t scale = reader.u8();
      number(sink, name, kFloat, static_cast<int32_t>(reader.u32()) / std::pow(10.0, scale));
      break;
    }
    case 'S': {
      std::string_view text = amqp::as_text(reader.long_string());
      header(sink, name, is_utf8(text) ? kText : kBytes, text);
      break;
    }
    case 'x':
      header(sink, name, kBytes, amqp::as_text(reader.long_string()));
      break;
    case 'T':
      number(sink, name, kTime, reader.u64());
      break;
    case 'F':
    case 'A': {
      amqp::Bytes content = reader.long_string();
      std::array<uint8_t, 5> front = {letter};
      uint32_t length = __builtin_bswap32(static_cast<uint32_t>(content.size()));
      std::memcpy(front.data() + 1, &length, sizeof length);
      begin_item(sink, kHeader, 1 + 2 + name.size() + front.size() + content.size());
      integer(sink, static_cast<uint8_t>(kNested));
      integer(sink, static_cast<uint16_t>(name.size()));
      sink.raw(name.data(), name.size());
      sink.raw(front.data(), front.size());
      sink.raw(content.data(), content.size());
      break;
    }
    case 'V':
      header(sink, name, kNone, {});
      break;
    default:
      return false;
  }
  return reader.ok();
}

template <typename Sink>
void put(Sink& sink, const Record& record) {
  begin_item(sink, kRecord, 0);
  size_t begin = sink.size();
  integer(sink, record.id);
  integer(sink, static_cast<uint64_t>(record.published_at_ms));
  integer(sink, record.attempt);
  integer(sink, record.redelivered ? kRedelivered : uint32_t{0});
  item(sink, kBody, amqp::as_text(record.body));
  item(sink, kExchange, record.exchange);
  item(sink, kRoutingKey, record.routing_key);
  PropertyViews properties = views_of(record.properties);
  auto text = [&](Tag tag, std::string_view value) {
    if (!value.empty()) item(sink, tag, value);
  };
  text(kContentType, properties.content_type);
  text(kContentEncoding, properties.content_encoding);
  text(kMessageId, properties.message_id);
  text(kCorrelationId, properties.correlation_id);
  text(kReplyTo, properties.reply_to);
  text(kType, properties.type);
  amqp::Reader headers(properties.headers);
  while (headers.left() > 0) {
    std::string_view name = headers.short_string();
    if (!headers.ok() || !field(sink, name, headers)) break;
  }
  sink.set_u32(begin - kLengthBytes, static_cast<uint32_t>(sink.size() - begin));
}

template <typename Sink>
void put(Sink& sink, const Invocation& invocation) {
  integer(sink, uint32_t{0});
  integer(sink, kVersion);
  integer(sink, invocation.last_of_window ? kLastOfWindow : uint16_t{0});
  integer(sink, uint64_t{0});  // the deadline
  integer(sink, invocation.timeout_ms);
  integer(sink, static_cast<uint32_t>(invocation.records.size()));
  if (invocation.state) item(sink, kState, amqp::as_text(*invocation.state));
  if (invocation.state_version) {
    begin_item(sink, kStateVersion, sizeof(uint64_t));
    integer(sink, *invocation.state_version);
  }
  if (invocation.key) item(sink, kKey, *invocation.key);
  if (invocation.window) {
    begin_item(sink, kWindow, 3 * sizeof(uint64_t));
    integer(sink, invocation.window->start_ms);
    integer(sink, invocation.window->end_ms);
    integer(sink, invocation.window->number);
  }
  for (const Record& record : invocation.records) put(sink, record);
  sink.set_u32(0, static_cast<uint32_t>(sink.size() - kLengthBytes));
}

}  // namespace

size_t encoded_size(const Invocation& invocation) {
  Measure measure;
  put(measure, invocation);
  return measure.size();
}

void encode(const Invocation& invocation, std::span<uint8_t> to) {
  Write write(to);
  put(write, invocation);
  CHECK(write.size() == to.size());
}

}  // namespace sluice::broker::protocol
