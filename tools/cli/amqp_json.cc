#include "tools/cli/amqp_json.h"

#include <cmath>

#include "tools/cli/amqp_client.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

Json text_json(amqp_bytes_t bytes) {
  const std::string_view text = as_view(bytes);
  return is_utf8(text) ? std::string(text) : base64_encode(text);
}

Json array_json(const amqp_array_t& array);

Json value_json(const amqp_field_value_t& field) {
  switch (field.kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
      return field.value.boolean != 0;
    case AMQP_FIELD_KIND_I8:
      return field.value.i8;
    case AMQP_FIELD_KIND_U8:
      return field.value.u8;
    case AMQP_FIELD_KIND_I16:
      return field.value.i16;
    case AMQP_FIELD_KIND_U16:
      return field.value.u16;
    case AMQP_FIELD_KIND_I32:
      return field.value.i32;
    case AMQP_FIELD_KIND_U32:
      return field.value.u32;
    case AMQP_FIELD_KIND_I64:
      return field.value.i64;
    case AMQP_FIELD_KIND_U64:
    case AMQP_FIELD_KIND_TIMESTAMP:
      return field.value.u64;
    case AMQP_FIELD_KIND_F32:
      return field.value.f32;
    case AMQP_FIELD_KIND_F64:
      return field.value.f64;
    case AMQP_FIELD_KIND_DECIMAL:
      return field.value.decimal.value / std::pow(10.0, field.value.decimal.decimals);
    case AMQP_FIELD_KIND_UTF8:
      return text_json(field.value.bytes);
    case AMQP_FIELD_KIND_BYTES:
      return base64_encode(as_view(field.value.bytes));
    case AMQP_FIELD_KIND_ARRAY:
      return array_json(field.value.array);
    case AMQP_FIELD_KIND_TABLE:
      return table_json(field.value.table);
    default:
      return nullptr;
  }
}

Json array_json(const amqp_array_t& array) {
  Json list = Json::array();
  for (int i = 0; i < array.num_entries; ++i) list.push_back(value_json(array.entries[i]));
  return list;
}

Json properties_json(const amqp_basic_properties_t& properties) {
  Json object = Json::object();
  const auto add = [&](amqp_flags_t flag, const char* name, auto&& value) {
    if ((properties._flags & flag) != 0) object[name] = value();
  };
  const auto add_text = [&](amqp_flags_t flag, const char* name, amqp_bytes_t value) {
    add(flag, name, [&] { return text_json(value); });
  };
  add_text(AMQP_BASIC_CONTENT_TYPE_FLAG, "content_type", properties.content_type);
  add_text(AMQP_BASIC_CONTENT_ENCODING_FLAG, "content_encoding", properties.content_encoding);
  object["headers"] = (properties._flags & AMQP_BASIC_HEADERS_FLAG) != 0
                          ? table_json(properties.headers)
                          : Json::object();
  add(AMQP_BASIC_DELIVERY_MODE_FLAG, "delivery_mode", [&] { return properties.delivery_mode; });
  add(AMQP_BASIC_PRIORITY_FLAG, "priority", [&] { return properties.priority; });
  add_text(AMQP_BASIC_CORRELATION_ID_FLAG, "correlation_id", properties.correlation_id);
  add_text(AMQP_BASIC_REPLY_TO_FLAG, "reply_to", properties.reply_to);
  add_text(AMQP_BASIC_EXPIRATION_FLAG, "expiration", properties.expiration);
  add_text(AMQP_BASIC_MESSAGE_ID_FLAG, "message_id", properties.message_id);
  add(AMQP_BASIC_TIMESTAMP_FLAG, "timestamp", [&] { return properties.timestamp; });
  add_text(AMQP_BASIC_TYPE_FLAG, "type", properties.type);
  add_text(AMQP_BASIC_USER_ID_FLAG, "user_id", properties.user_id);
  add_text(AMQP_BASIC_APP_ID_FLAG, "app_id", properties.app_id);
  return object;
}

}  // namespace

Json table_json(const amqp_table_t& table) {
  Json object = Json::object();
  for (int i = 0; i < table.num_entries; ++i) {
    const Json key = text_json(table.entries[i].key);
    object[key.get<std::string>()] = value_json(table.entries[i].value);
  }
  return object;
}

Json message_json(std::string_view exchange, std::string_view routing_key, bool redelivered,
                  const amqp_message_t& message) {
  const std::string_view body = as_view(message.body);
  const bool text = is_utf8(body);
  return {{"exchange", std::string(exchange)},
          {"routing_key", std::string(routing_key)},
          {"redelivered", redelivered},
          {"properties", properties_json(message.properties)},
          {"payload", text ? std::string(body) : base64_encode(body)},
          {"payload_bytes", body.size()},
          {"payload_encoding", text ? "string" : "base64"}};
}

}  // namespace sluice::cli
