#include "broker/amqp/properties.h"

#include <type_traits>

namespace sluice::amqp {

namespace {

// Walks the properties in wire order; each has the next lower bit of the flags, from bit 15 down.
template <typename P, typename F>
void each(P& p, F f) {
  f(p.content_type), f(p.content_encoding), f(p.headers), f(p.delivery_mode), f(p.priority);
  f(p.correlation_id), f(p.reply_to), f(p.expiration), f(p.message_id), f(p.timestamp);
  f(p.type), f(p.user_id), f(p.app_id), f(p.cluster_id);
}

constexpr uint16_t kContentType = 1 << 15;
constexpr uint16_t kContentEncoding = 1 << 14;
constexpr uint16_t kHeaders = 1 << 13;
constexpr uint16_t kDeliveryMode = 1 << 12;
constexpr uint16_t kContinuation = 1;  // another flags word follows: no class has so many
constexpr uint16_t kUndefined = 2;     // the bit between the last property and the continuation

}  // namespace

std::optional<Properties> Properties::decode(Bytes bytes, size_t fields_max) {
  Reader reader(bytes);
  uint16_t flags = reader.u16();
  if ((flags & (kContinuation | kUndefined)) != 0) return std::nullopt;
  Properties properties;
  uint32_t bit = 1u << 15;
  each(properties, [&](auto& property) {
    if ((flags & bit) != 0) {
      using T = typename std::remove_reference_t<decltype(property)>::value_type;
      if constexpr (std::is_same_v<T, std::string>) {
        property = std::string(reader.short_string());
      } else if constexpr (std::is_same_v<T, Table>) {
        property = read_table(reader, fields_max);
      } else if constexpr (std::is_same_v<T, uint8_t>) {
        property = reader.u8();
      } else {
        property = reader.u64();
      }
    }
    bit >>= 1;
  });
  if (!reader.ok() || reader.left() != 0) return std::nullopt;
  return properties;
}

Properties Properties::of_stored(Bytes bytes) {
  return decode(bytes, SIZE_MAX).value_or(Properties());
}

std::string Properties::encode() const {
  std::string out;
  {
    Writer writer(out);
    write(writer);
  }
  return out;
}

void Properties::write(Writer& writer) const {
  uint16_t flags = 0;
  uint16_t bit = 1u << 15;
  each(*this, [&](const auto& property) {
    if (property) flags = static_cast<uint16_t>(flags | bit);
    bit = static_cast<uint16_t>(bit >> 1);
  });
  writer.u16(flags);
  each(*this, [&](const auto& property) {
    if (!property) return;
    using T = typename std::remove_cvref_t<decltype(property)>::value_type;
    if constexpr (std::is_same_v<T, std::string>) {
      writer.short_string(*property);
    } else if constexpr (std::is_same_v<T, Table>) {
      write_table(writer, *property);
    } else if constexpr (std::is_same_v<T, uint8_t>) {
      writer.u8(*property);
    } else {
      writer.u64(*property);
    }
  });
}

bool is_persistent(Bytes properties) {
  Reader reader(properties);
  uint16_t flags = reader.u16();
  if ((flags & kDeliveryMode) == 0) return false;
  if ((flags & kContentType) != 0) reader.short_string();
  if ((flags & kContentEncoding) != 0) reader.short_string();
  if ((flags & kHeaders) != 0) reader.long_string();
  return reader.u8() == Properties::kPersistent;
}

}  // namespace sluice::amqp
