#include "tools/cli/publisher.h"

#include "tools/cli/limits.h"

namespace sluice::cli {
namespace {

constexpr uint8_t kPersistent = 2;

// What librabbitmq wants to see; points into `properties` and `headers`.
amqp_basic_properties_t as_amqp_properties(const PublishProperties& properties,
                                           std::vector<amqp_table_entry_t>& headers) {
  amqp_basic_properties_t wire{};
  wire._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
  wire.delivery_mode = kPersistent;
  for (const auto& [key, value] : properties.headers) {
    amqp_table_entry_t& entry = headers.emplace_back();
    entry.key = as_amqp(key);
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = as_amqp(value);
  }
  if (!headers.empty()) {
    wire._flags |= AMQP_BASIC_HEADERS_FLAG;
    wire.headers = {static_cast<int>(headers.size()), headers.data()};
  }
  const auto set = [&](amqp_flags_t flag, amqp_bytes_t& field, const std::string& value) {
    if (value.empty()) return;
    wire._flags |= flag;
    field = as_amqp(value);
  };
  set(AMQP_BASIC_CORRELATION_ID_FLAG, wire.correlation_id, properties.correlation_id);
  set(AMQP_BASIC_REPLY_TO_FLAG, wire.reply_to, properties.reply_to);
  set(AMQP_BASIC_CONTENT_TYPE_FLAG, wire.content_type, properties.content_type);
  return wire;
}

}  // namespace

Publisher::Publisher(AmqpClient& client, std::string exchange, std::string routing_key,
                     const PublishProperties& properties)
    : client_(&client),
      exchange_(std::move(exchange)),
      routing_key_(std::move(routing_key)),
      properties_(properties) {}

Expected<Publisher> Publisher::open(AmqpClient& client, std::string exchange,
                                    std::string routing_key, const PublishProperties& properties) {
  amqp_confirm_select(client.state(), AmqpClient::kChannel);
  if (const auto on = client.check_last(); !on) return std::unexpected(on.error());
  return Publisher(client, std::move(exchange), std::move(routing_key), properties);
}

Expected<> Publisher::publish(std::string_view body) {
  while (unconfirmed_.size() >= kConfirmWindow) {
    if (const auto heard = listen(kAnswerTimeoutMs); !heard) return heard;
  }
  // A full window's worth of confirms must not gather unread in our socket.
  if (const auto heard = listen(0); !heard) return heard;

  std::vector<amqp_table_entry_t> headers;
  const amqp_basic_properties_t wire = as_amqp_properties(properties_, headers);
  const bool mandatory = true;
  const bool immediate = false;
  const int status =
      amqp_basic_publish(client_->state(), AmqpClient::kChannel, as_amqp(exchange_),
                         as_amqp(routing_key_), mandatory, immediate, &wire, as_amqp(body));
  if (const auto sent = client_->check_status(status); !sent) return sent;
  unconfirmed_.insert(++counts_.published);
  return {};
}

Expected<> Publisher::listen(int timeout_ms) {
  amqp_frame_t frame;
  timeval timeout{timeout_ms / 1000, (timeout_ms % 1000) * 1000};
  while (true) {
    amqp_maybe_release_buffers_on_channel(client_->state(), AmqpClient::kChannel);
    const int status = amqp_simple_wait_frame_noblock(client_->state(), &frame, &timeout);
    if (status == AMQP_STATUS_TIMEOUT) return {};
    if (const auto heard = client_->check_status(status); !heard) return heard;
    if (const auto taken = take(frame); !taken) return taken;
    timeout = {0, 0};  // one is enough to have waited for; the rest is what is there already
  }
}

Expected<> Publisher::finish() {
  while (!unconfirmed_.empty()) {
    const size_t before = unconfirmed_.size();
    if (const auto heard = listen(kAnswerTimeoutMs); !heard) return heard;
    if (unconfirmed_.size() == before && counts_.returned == 0) {
      return fail(Code::kUnavailable, "the broker confirms nothing any more; look at its log");
    }
  }
  return {};
}

Expected<> Publisher::take(const amqp_frame_t& frame) {
  if (frame.frame_type != AMQP_FRAME_METHOD) return {};
  const amqp_method_t& method = frame.payload.method;
  switch (method.id) {
    case AMQP_BASIC_ACK_METHOD: {
      const auto* ack = static_cast<const amqp_basic_ack_t*>(method.decoded);
      settle(ack->delivery_tag, ack->multiple != 0, counts_.confirmed);
      return {};
    }
    case AMQP_BASIC_NACK_METHOD: {
      const auto* nack = static_cast<const amqp_basic_nack_t*>(method.decoded);
      settle(nack->delivery_tag, nack->multiple != 0, counts_.refused);
      return {};
    }
    case AMQP_BASIC_RETURN_METHOD: {
      const auto* returned = static_cast<const amqp_basic_return_t*>(method.decoded);
      ++counts_.returned;
      counts_.return_reason = as_view(returned->reply_text);
      amqp_message_t content;
      const amqp_rpc_reply_t reply =
          amqp_read_message(client_->state(), AmqpClient::kChannel, &content, 0);
      if (const auto read = client_->check(reply); !read) return read;
      amqp_destroy_message(&content);
      return {};
    }
    default:
      return client_->check_method(method);
  }
}

void Publisher::settle(uint64_t tag, bool multiple, uint64_t& counter) {
  const auto end = unconfirmed_.upper_bound(tag);
  const auto begin = multiple ? unconfirmed_.begin() : unconfirmed_.lower_bound(tag);
  counter += static_cast<uint64_t>(std::distance(begin, end));
  unconfirmed_.erase(begin, end);
}

}  // namespace sluice::cli
