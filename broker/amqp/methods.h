#pragma once

#include <cstdint>
#include <string_view>

#include "broker/amqp/table.h"
#include "broker/amqp/wire.h"

// The methods of AMQP 0-9-1 that the broker speaks, with RabbitMQ's confirm class and basic.nack,
// as plain structs. Each lists its fields once, in wire order, for both directions: decode() and
// encode() below walk the same list. Texts are views: into the frame when decoded.
namespace sluice::amqp {

enum class ClassId : uint16_t {
  kConnection = 10,
  kChannel = 20,
  kExchange = 40,
  kQueue = 50,
  kBasic = 60,
  kConfirm = 85,
  kTx = 90,
};

constexpr uint32_t method_id(uint16_t class_id, uint16_t method) {
  return static_cast<uint32_t>(class_id) << 16 | method;
}

class MethodReader {
 public:
  explicit MethodReader(Reader& reader) : reader_(reader) {}
  void operator()(uint8_t& v) { v = reader_.u8(); }
  void operator()(uint16_t& v) { v = reader_.u16(); }
  void operator()(uint32_t& v) { v = reader_.u32(); }
  void operator()(uint64_t& v) { v = reader_.u64(); }
  void operator()(std::string_view& v) { v = reader_.short_string(); }
  void operator()(Table& v) { v = read_table(reader_); }
  void long_string(std::string_view& v) { v = as_text(reader_.long_string()); }
  template <typename... Bits>
  void bits(Bits&... bit) {
    uint8_t octet = reader_.u8();
    int i = 0;
    ((bit = (octet >> i++ & 1) != 0), ...);
  }

 private:
  Reader& reader_;
};

class MethodWriter {
 public:
  explicit MethodWriter(Writer& writer) : writer_(writer) {}
  void operator()(uint8_t v) { writer_.u8(v); }
  void operator()(uint16_t v) { writer_.u16(v); }
  void operator()(uint32_t v) { writer_.u32(v); }
  void operator()(uint64_t v) { writer_.u64(v); }
  void operator()(std::string_view v) { writer_.short_string(v); }
  void operator()(const Table& v) { write_table(writer_, v); }
  void long_string(std::string_view v) { writer_.long_string(as_bytes(v)); }
  template <typename... Bits>
  void bits(Bits... bit) {
    uint8_t octet = 0;
    int i = 0;
    ((octet |= static_cast<uint8_t>(bit ? 1 << i : 0), ++i), ...);
    writer_.u8(octet);
  }

 private:
  Writer& writer_;
};

// False where the arguments are cut short or malformed.
template <typename Method>
bool decode(Reader& reader, Method& method) {
  MethodReader visitor(reader);
  method.visit(visitor);
  return reader.ok();
}

template <typename Method>
void encode(Writer& writer, const Method& method) {
  writer.u16(static_cast<uint16_t>(Method::kId >> 16));
  writer.u16(static_cast<uint16_t>(Method::kId));
  MethodWriter visitor(writer);
  const_cast<Method&>(method).visit(visitor);
}

#define SLUICE_METHOD(class_id, method) static constexpr uint32_t kId = method_id(class_id, method)
#define SLUICE_EMPTY_METHOD(Name, class_id, method) \
  struct Name {                                     \
    SLUICE_METHOD(class_id, method);                \
    template <typename V>                           \
    void visit(V&) {}                               \
  }

struct ConnectionStart {
  SLUICE_METHOD(10, 10);
  uint8_t version_major = 0, version_minor = 9;
  Table server_properties;
  std::string_view mechanisms, locales;
  template <typename V>
  void visit(V& v) {
    v(version_major), v(version_minor), v(server_properties);
    v.long_string(mechanisms), v.long_string(locales);
  }
};
struct ConnectionStartOk {
  SLUICE_METHOD(10, 11);
  Table client_properties;
  std::string_view mechanism, response, locale;
  template <typename V>
  void visit(V& v) {
    v(client_properties), v(mechanism), v.long_string(response), v(locale);
  }
};
struct ConnectionTune {
  SLUICE_METHOD(10, 30);
  uint16_t channel_max = 0;
  uint32_t frame_max = 0;
  uint16_t heartbeat = 0;
  template <typename V>
  void visit(V& v) {
    v(channel_max), v(frame_max), v(heartbeat);
  }
};
struct ConnectionTuneOk : ConnectionTune {
  SLUICE_METHOD(10, 31);
};
struct ConnectionOpen {
  SLUICE_METHOD(10, 40);
  std::string_view virtual_host, capabilities;
  bool insist = false;
  template <typename V>
  void visit(V& v) {
    v(virtual_host), v(capabilities), v.bits(insist);
  }
};
struct ConnectionOpenOk {
  SLUICE_METHOD(10, 41);
  std::string_view known_hosts;
  template <typename V>
  void visit(V& v) {
    v(known_hosts);
  }
};
struct ConnectionClose {
  SLUICE_METHOD(10, 50);
  uint16_t reply_code = 0;
  std::string_view reply_text;
  uint16_t class_id = 0, method = 0;
  template <typename V>
  void visit(V& v) {
    v(reply_code), v(reply_text), v(class_id), v(method);
  }
};
SLUICE_EMPTY_METHOD(ConnectionCloseOk, 10, 51);
// RabbitMQ's, for clients with the capability connection.blocked.
struct ConnectionBlocked {
  SLUICE_METHOD(10, 60);
  std::string_view reason;
  template <typename V>
  void visit(V& v) {
    v(reason);
  }
};
SLUICE_EMPTY_METHOD(ConnectionUnblocked, 10, 61);

struct ChannelOpen {
  SLUICE_METHOD(20, 10);
  std::string_view out_of_band;
  template <typename V>
  void visit(V& v) {
    v(out_of_band);
  }
};
struct ChannelOpenOk {
  SLUICE_METHOD(20, 11);
  std::string_view channel_id;
  template <typename V>
  void visit(V& v) {
    v.long_string(channel_id);
  }
};
struct ChannelFlow {
  SLUICE_METHOD(20, 20);
  bool active = false;
  template <typename V>
  void visit(V& v) {
    v.bits(active);
  }
};
struct ChannelFlowOk : ChannelFlow {
  SLUICE_METHOD(20, 21);
};
struct ChannelClose : ConnectionClose {
  SLUICE_METHOD(20, 40);
};
SLUICE_EMPTY_METHOD(ChannelCloseOk, 20, 41);

struct ExchangeDeclare {
  SLUICE_METHOD(40, 10);
  uint16_t reserved = 0;
  std::string_view exchange, type;
  bool passive = false, durable = false, auto_delete = false, internal = false, no_wait = false;
  Table arguments;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(exchange), v(type);
    v.bits(passive, durable, auto_delete, internal, no_wait), v(arguments);
  }
};
SLUICE_EMPTY_METHOD(ExchangeDeclareOk, 40, 11);
struct ExchangeDelete {
  SLUICE_METHOD(40, 20);
  uint16_t reserved = 0;
  std::string_view exchange;
  bool if_unused = false, no_wait = false;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(exchange), v.bits(if_unused, no_wait);
  }
};
SLUICE_EMPTY_METHOD(ExchangeDeleteOk, 40, 21);

struct QueueDeclare {
  SLUICE_METHOD(50, 10);
  uint16_t reserved = 0;
  std::string_view queue;
  bool passive = false, durable = false, exclusive = false, auto_delete = false, no_wait = false;
  Table arguments;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue);
    v.bits(passive, durable, exclusive, auto_delete, no_wait), v(arguments);
  }
};
struct QueueDeclareOk {
  SLUICE_METHOD(50, 11);
  std::string_view queue;
  uint32_t message_count = 0, consumer_count = 0;
  template <typename V>
  void visit(V& v) {
    v(queue), v(message_count), v(consumer_count);
  }
};
struct QueueBind {
  SLUICE_METHOD(50, 20);
  uint16_t reserved = 0;
  std::string_view queue, exchange, routing_key;
  bool no_wait = false;
  Table arguments;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v(exchange), v(routing_key), v.bits(no_wait), v(arguments);
  }
};
SLUICE_EMPTY_METHOD(QueueBindOk, 50, 21);
struct QueueUnbind {
  SLUICE_METHOD(50, 50);
  uint16_t reserved = 0;
  std::string_view queue, exchange, routing_key;
  Table arguments;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v(exchange), v(routing_key), v(arguments);
  }
};
SLUICE_EMPTY_METHOD(QueueUnbindOk, 50, 51);
struct QueuePurge {
  SLUICE_METHOD(50, 30);
  uint16_t reserved = 0;
  std::string_view queue;
  bool no_wait = false;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v.bits(no_wait);
  }
};
struct QueuePurgeOk {
  SLUICE_METHOD(50, 31);
  uint32_t message_count = 0;
  template <typename V>
  void visit(V& v) {
    v(message_count);
  }
};
struct QueueDelete {
  SLUICE_METHOD(50, 40);
  uint16_t reserved = 0;
  std::string_view queue;
  bool if_unused = false, if_empty = false, no_wait = false;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v.bits(if_unused, if_empty, no_wait);
  }
};
struct QueueDeleteOk : QueuePurgeOk {
  SLUICE_METHOD(50, 41);
};

struct BasicQos {
  SLUICE_METHOD(60, 10);
  uint32_t prefetch_size = 0;
  uint16_t prefetch_count = 0;
  bool global = false;
  template <typename V>
  void visit(V& v) {
    v(prefetch_size), v(prefetch_count), v.bits(global);
  }
};
SLUICE_EMPTY_METHOD(BasicQosOk, 60, 11);
struct BasicConsume {
  SLUICE_METHOD(60, 20);
  uint16_t reserved = 0;
  std::string_view queue, consumer_tag;
  bool no_local = false, no_ack = false, exclusive = false, no_wait = false;
  Table arguments;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v(consumer_tag);
    v.bits(no_local, no_ack, exclusive, no_wait), v(arguments);
  }
};
struct BasicConsumeOk {
  SLUICE_METHOD(60, 21);
  std::string_view consumer_tag;
  template <typename V>
  void visit(V& v) {
    v(consumer_tag);
  }
};
struct BasicCancel {
  SLUICE_METHOD(60, 30);
  std::string_view consumer_tag;
  bool no_wait = false;
  template <typename V>
  void visit(V& v) {
    v(consumer_tag), v.bits(no_wait);
  }
};
struct BasicCancelOk : BasicConsumeOk {
  SLUICE_METHOD(60, 31);
};
struct BasicPublish {
  SLUICE_METHOD(60, 40);
  uint16_t reserved = 0;
  std::string_view exchange, routing_key;
  bool mandatory = false, immediate = false;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(exchange), v(routing_key), v.bits(mandatory, immediate);
  }
};
struct BasicReturn {
  SLUICE_METHOD(60, 50);
  uint16_t reply_code = 0;
  std::string_view reply_text, exchange, routing_key;
  template <typename V>
  void visit(V& v) {
    v(reply_code), v(reply_text), v(exchange), v(routing_key);
  }
};
struct BasicDeliver {
  SLUICE_METHOD(60, 60);
  std::string_view consumer_tag;
  uint64_t delivery_tag = 0;
  bool redelivered = false;
  std::string_view exchange, routing_key;
  template <typename V>
  void visit(V& v) {
    v(consumer_tag), v(delivery_tag), v.bits(redelivered), v(exchange), v(routing_key);
  }
};
struct BasicGet {
  SLUICE_METHOD(60, 70);
  uint16_t reserved = 0;
  std::string_view queue;
  bool no_ack = false;
  template <typename V>
  void visit(V& v) {
    v(reserved), v(queue), v.bits(no_ack);
  }
};
struct BasicGetOk {
  SLUICE_METHOD(60, 71);
  uint64_t delivery_tag = 0;
  bool redelivered = false;
  std::string_view exchange, routing_key;
  uint32_t message_count = 0;
  template <typename V>
  void visit(V& v) {
    v(delivery_tag), v.bits(redelivered), v(exchange), v(routing_key), v(message_count);
  }
};
struct BasicGetEmpty {
  SLUICE_METHOD(60, 72);
  std::string_view cluster_id;
  template <typename V>
  void visit(V& v) {
    v(cluster_id);
  }
};
struct BasicAck {
  SLUICE_METHOD(60, 80);
  uint64_t delivery_tag = 0;
  bool multiple = false;
  template <typename V>
  void visit(V& v) {
    v(delivery_tag), v.bits(multiple);
  }
};
struct BasicReject {
  SLUICE_METHOD(60, 90);
  uint64_t delivery_tag = 0;
  bool requeue = false;
  template <typename V>
  void visit(V& v) {
    v(delivery_tag), v.bits(requeue);
  }
};
struct BasicNack {
  SLUICE_METHOD(60, 120);
  uint64_t delivery_tag = 0;
  bool multiple = false, requeue = false;
  template <typename V>
  void visit(V& v) {
    v(delivery_tag), v.bits(multiple, requeue);
  }
};
struct BasicRecover {
  SLUICE_METHOD(60, 110);
  bool requeue = false;
  template <typename V>
  void visit(V& v) {
    v.bits(requeue);
  }
};
struct BasicRecoverAsync : BasicRecover {
  SLUICE_METHOD(60, 100);
};
SLUICE_EMPTY_METHOD(BasicRecoverOk, 60, 111);

struct ConfirmSelect {
  SLUICE_METHOD(85, 10);
  bool no_wait = false;
  template <typename V>
  void visit(V& v) {
    v.bits(no_wait);
  }
};
SLUICE_EMPTY_METHOD(ConfirmSelectOk, 85, 11);

#undef SLUICE_EMPTY_METHOD
#undef SLUICE_METHOD

}  // namespace sluice::amqp
