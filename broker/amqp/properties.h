#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "broker/amqp/table.h"
#include "broker/amqp/wire.h"

namespace sluice::amqp {

// The basic class's content properties (section 1.8.3.1), decoded. Messages carry them as the bytes
// that were published; this is for the few places that read or change one.
struct Properties {
  std::optional<std::string> content_type, content_encoding;
  std::optional<Table> headers;
  std::optional<uint8_t> delivery_mode, priority;
  std::optional<std::string> correlation_id, reply_to, expiration, message_id;
  std::optional<uint64_t> timestamp;
  std::optional<std::string> type, user_id, app_id, cluster_id;

  static constexpr uint8_t kPersistent = 2;

  // Nothing where the bytes are malformed or something follows them; a peer's headers are held to
  // the limit of fields.
  static std::optional<Properties> decode(Bytes bytes, size_t fields_max = kTableFieldsMax);
  // Of a message that was accepted before: we may have added headers to a peer's. Empty where they
  // can not be read.
  static Properties of_stored(Bytes bytes);
  std::string encode() const;
  void write(Writer& writer) const;

  bool persistent() const { return delivery_mode == kPersistent; }
};

// Whether the properties, which must be well-formed, ask for the message to be stored.
bool is_persistent(Bytes properties);

}  // namespace sluice::amqp
