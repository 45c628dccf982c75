#include "tools/cli/amqp_client.h"

#include <array>

#include <amqp_tcp_socket.h>
#include <fmt/format.h>

#include "tools/cli/limits.h"
#include "tools/cli/reachable.h"

namespace sluice::cli {
namespace {

constexpr int kFrameBytesMax = 131072;
constexpr int kAnyChannelMax = 0;

constexpr timeval milliseconds(int ms) { return {ms / 1000, (ms % 1000) * 1000}; }

// "/", where the URL names none. RFC-like AMQP URIs percent-encode it.
std::string virtual_host(const Url& url) {
  if (url.path.size() <= 1) return "/";
  return percent_decode(std::string_view(url.path).substr(1)).value_or("/");
}

Error broker_error(uint16_t code, std::string_view text) {
  const Code kind = code == AMQP_NOT_FOUND             ? Code::kNotFound
                    : code == AMQP_PRECONDITION_FAILED ? Code::kExists
                    : code == AMQP_INTERNAL_ERROR      ? Code::kInternal
                                                       : Code::kInvalid;
  return {kind, fmt::format("the broker refused: {} ({})", text, code)};
}

}  // namespace

Expected<AmqpClient> AmqpClient::open(const std::string& text) {
  auto url = parse_url(text, "amqp", 5672);
  if (!url) return fail(Code::kInvalid, "--amqp: " + url.error().message);
  State state(amqp_new_connection());
  amqp_socket_t* socket = state ? amqp_tcp_socket_new(state.get()) : nullptr;
  if (socket == nullptr) return fail(Code::kInternal, "out of memory for an AMQP connection");
  const timeval timeout = milliseconds(kConnectTimeoutMs);
  if (amqp_socket_open_noblock(socket, url->host.c_str(), url->port, &timeout) != AMQP_STATUS_OK) {
    return fail(Code::kUnavailable, cannot_reach(*url, "amqp"));
  }
  AmqpClient client(std::move(state), std::move(*url));
  if (const auto done = client.log_in(); !done) return std::unexpected(done.error());
  return client;
}

Expected<> AmqpClient::log_in() {
  const timeval handshake = milliseconds(kConnectTimeoutMs);
  const timeval answer = milliseconds(kAnswerTimeoutMs);
  amqp_set_handshake_timeout(state(), &handshake);
  amqp_set_rpc_timeout(state(), &answer);

  // Without it a broker keeps silent when a queue with a consumer is deleted.
  amqp_table_entry_t cancel_notify{};
  cancel_notify.key = as_amqp("consumer_cancel_notify");
  cancel_notify.value.kind = AMQP_FIELD_KIND_BOOLEAN;
  cancel_notify.value.value.boolean = 1;
  std::array<amqp_table_entry_t, 2> entries{};
  entries[0].key = as_amqp("product");
  entries[0].value.kind = AMQP_FIELD_KIND_UTF8;
  entries[0].value.value.bytes = as_amqp("sluice " SLUICE_VERSION);
  entries[1].key = as_amqp("capabilities");
  entries[1].value.kind = AMQP_FIELD_KIND_TABLE;
  entries[1].value.value.table = {1, &cancel_notify};
  const amqp_table_t properties{static_cast<int>(entries.size()), entries.data()};
  const amqp_rpc_reply_t reply = amqp_login_with_properties(
      state(), virtual_host(url_).c_str(), kAnyChannelMax, kFrameBytesMax, kHeartbeatSeconds,
      &properties, AMQP_SASL_METHOD_PLAIN, url_.user.c_str(), url_.password.c_str());
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
      reply.library_error != AMQP_STATUS_TIMEOUT) {
    return fail(Code::kUnavailable,
                fmt::format("the AMQP login at amqp://{} failed: {}", url_.endpoint(),
                            amqp_error_string2(reply.library_error)));
  }
  if (const auto done = check(reply); !done) {
    return fail(done.error().code, done.error().message +
                                       "; check the user, password and virtual host in --amqp or "
                                       "SLUICE_AMQP");
  }
  amqp_channel_open(state(), kChannel);
  return check_last();
}

Expected<> AmqpClient::check(const amqp_rpc_reply_t& reply) const {
  switch (reply.reply_type) {
    case AMQP_RESPONSE_NORMAL:
      return {};
    case AMQP_RESPONSE_SERVER_EXCEPTION:
      return check_method(reply.reply);
    case AMQP_RESPONSE_LIBRARY_EXCEPTION:
      return fail(Code::kUnavailable,
                  fmt::format("the connection to amqp://{} broke: {}", url_.endpoint(),
                              amqp_error_string2(reply.library_error)));
    default:
      return fail(Code::kUnavailable, fmt::format("amqp://{} answered nothing", url_.endpoint()));
  }
}

Expected<> AmqpClient::check_status(int status) const {
  if (status >= 0) return {};
  amqp_frame_t frame;
  const timeval soon = milliseconds(200);
  while (amqp_simple_wait_frame_noblock(state(), &frame, &soon) == AMQP_STATUS_OK) {
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    if (const auto open = check_method(frame.payload.method); !open) return open;
  }
  return fail(Code::kUnavailable, fmt::format("the connection to amqp://{} broke: {}",
                                              url_.endpoint(), amqp_error_string2(status)));
}

Expected<> AmqpClient::check_method(const amqp_method_t& method) const {
  if (method.id == AMQP_CONNECTION_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_connection_close_t*>(method.decoded);
    return std::unexpected(broker_error(close->reply_code, as_view(close->reply_text)));
  }
  if (method.id == AMQP_CHANNEL_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_channel_close_t*>(method.decoded);
    return std::unexpected(broker_error(close->reply_code, as_view(close->reply_text)));
  }
  return {};
}

void AmqpClient::close() {
  const timeval soon = milliseconds(kConnectTimeoutMs);
  amqp_set_rpc_timeout(state(), &soon);
  amqp_connection_close(state(), AMQP_REPLY_SUCCESS);
}

}  // namespace sluice::cli
