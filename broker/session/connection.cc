#include "broker/session/connection.h"

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/session/server.h"

namespace sluice::broker {

namespace {

using amqp::Outcome;
using amqp::refuse;
using amqp::ReplyCode;

// Not read from while this many bytes wait for the disk.
constexpr size_t kUnwrittenMaxBytes = 64u << 20;
// The same in the middle of an external body. Less, because a large body needs no deep pipeline to
// keep the disk busy.
constexpr size_t kBodyUnwrittenMaxBytes = 8u << 20;

amqp::Table server_properties(const std::string& node) {
  amqp::Table capabilities;
  for (const char* name :
       {"publisher_confirms", "basic.nack", "consumer_cancel_notify", "per_consumer_qos",
        "authentication_failure_close", "connection.blocked"}) {
    capabilities.set(name, true);
  }
  amqp::Table properties;
  properties.set("capabilities", std::move(capabilities));
  properties.set("product", std::string("RabbitMQ"));
  properties.set("version", std::string(kCompatibleVersion));
  properties.set("platform", std::string("Sluice"));
  properties.set("sluice_version", std::string(SLUICE_VERSION));
  properties.set("cluster_name", node);
  return properties;
}

// SASL PLAIN (RFC 4616): authzid NUL authcid NUL password.
bool parse_plain(std::string_view response, std::string_view& user, std::string_view& password) {
  size_t first = response.find('\0');
  if (first == std::string_view::npos) return false;
  size_t second = response.find('\0', first + 1);
  if (second == std::string_view::npos) return false;
  user = response.substr(first + 1, second - first - 1);
  password = response.substr(second + 1);
  return true;
}

}  // namespace

Connection::Connection(Server& server, std::unique_ptr<net::Stream> stream)
    : server_(server),
      stream_(std::move(stream)),
      body_stream_(std::make_shared<BodyStream>(
          server.virtual_host().bodies(), *stream_,
          BodyStream::Events{.moved = [this] { output_moved(); },
                             .failed = [this](const Error& error) { body_failed(error); }})),
      timer_(server.loop(), [this] { beat(); }) {}

Connection::~Connection() { CHECK(state_ == State::kEnded || state_ == State::kProtocolHeader); }

void Connection::start() {
  timer_.start(amqp::kHandshakeMs);
  stream_->start({.on_data = [this](amqp::Bytes bytes) { return on_data(bytes); },
                  .on_end = [this](std::string_view reason) { end(reason); },
                  .on_drained =
                      [this] {
                        body_stream_->pump();
                        output_moved();
                      }});
}

VirtualHost& Connection::virtual_host() { return server_.virtual_host(); }

size_t Connection::consumer_count() const {
  size_t count = 0;
  for (const auto& [number, channel] : channels_) count += channel->consumer_count();
  return count;
}

std::string_view Connection::state_name() const {
  switch (state_) {
    case State::kProtocolHeader:
    case State::kStarting:
      return "starting";
    case State::kTuning:
      return "tuning";
    case State::kOpening:
      return "opening";
    case State::kOpen:
      return (holds_ & kForSpace) != 0 ? "blocked" : holds_ == 0 ? "running" : "flow";
    case State::kClosing:
      return "closing";
    case State::kEnded:
      return "closed";
  }
  return "closed";
}

bool Connection::client_capability(std::string_view name) const {
  const amqp::Field* capabilities = client_properties_.find("capabilities");
  if (capabilities == nullptr || capabilities->table() == nullptr) return false;
  const amqp::Field* field = capabilities->table()->find(name);
  return field != nullptr && field->boolean() != nullptr && *field->boolean();
}

size_t Connection::on_data(amqp::Bytes bytes) {
  received_since_beat_ = true;
  size_t taken = 0;
  if (state_ == State::kProtocolHeader && !protocol_header(bytes, taken)) return taken;
  while (state_ != State::kEnded && !stream_->paused()) {
    amqp::Frame frame;
    size_t frame_bytes = 0;
    auto status = amqp::parse_frame(bytes.subspan(taken), frame_max_bytes_, frame, frame_bytes);
    if (status == amqp::FrameStatus::kIncomplete) break;
    current_method_ = 0;
    if (status != amqp::FrameStatus::kWhole) {
      // What follows can not be told apart into frames.
      taken = bytes.size();
      if (state_ == State::kClosing) break;
      fail(0, {ReplyCode::kFrameError,
               status == amqp::FrameStatus::kTooLarge
                   ? "FRAME_ERROR - a frame is larger than the negotiated frame_max of " +
                         std::to_string(frame_max_bytes_) + " bytes"
                   : "FRAME_ERROR - a frame does not end with octet 206"});
      break;
    }
    taken += frame_bytes;
    if (auto outcome = on_frame(frame); !outcome) fail(frame.channel, outcome.error());
  }
  return taken;
}

bool Connection::protocol_header(amqp::Bytes bytes, size_t& taken) {
  std::string_view got = amqp::as_text(bytes).substr(0, amqp::kProtocolHeader.size());
  if (got == amqp::kProtocolHeader.substr(0, got.size())) {
    if (got.size() < amqp::kProtocolHeader.size()) return false;  // more to come
    taken = amqp::kProtocolHeader.size();
    state_ = State::kStarting;
    send_start();
    return true;
  }
  // Section 4.2.2: tell which protocol we speak, and close.
  stream_->out().append(amqp::kProtocolHeader);
  taken = bytes.size();
  end("it does not speak AMQP 0-9-1");
  return false;
}

void Connection::send_start() {
  amqp::ConnectionStart start;
  start.server_properties = server_properties(server_.node_name());
  start.mechanisms = "PLAIN";
  start.locales = "en_US";
  send(0, start);
}

Outcome<> Connection::on_frame(const amqp::Frame& frame) {
  switch (static_cast<amqp::FrameType>(frame.type)) {
    case amqp::FrameType::kMethod:
    case amqp::FrameType::kHeader:
    case amqp::FrameType::kBody:
      break;
    case amqp::FrameType::kHeartbeat: {
      if (frame.channel == 0 && frame.payload.empty()) return {};
      return refuse(ReplyCode::kFrameError, "a heartbeat is empty and on channel 0");
    }
    default:
      if (state_ == State::kClosing) return {};
      return refuse(ReplyCode::kFrameError, "unknown frame type " + std::to_string(frame.type));
  }
  if (frame.channel != 0) {
    if (state_ == State::kClosing) return {};
    if (state_ != State::kOpen) {
      return refuse(ReplyCode::kChannelError, "a channel is used before the connection is open");
    }
    return on_channel_frame(frame);
  }
  if (frame.type != static_cast<uint8_t>(amqp::FrameType::kMethod)) {
    if (state_ == State::kClosing) return {};
    return refuse(ReplyCode::kUnexpectedFrame, "content on channel 0");
  }
  amqp::Reader reader(frame.payload);
  uint32_t id = reader.u32();
  current_method_ = id;
  if (!reader.ok()) return refuse(ReplyCode::kFrameError, "a method frame without a method");
  return on_connection_method(id, reader);
}

Outcome<> Connection::on_connection_method(uint32_t id, amqp::Reader& reader) {
  if (id == amqp::ConnectionClose::kId) {
    send(0, amqp::ConnectionCloseOk{});
    end("closed by the client");
    return {};
  }
  if (state_ == State::kClosing) {
    if (id == amqp::ConnectionCloseOk::kId) end("closed");
    return {};
  }
  if (state_ != State::kOpen) return on_handshake(id, reader);
  if (id >> 16 != static_cast<uint16_t>(amqp::ClassId::kConnection)) {
    return refuse(ReplyCode::kCommandInvalid, "only connection methods go on channel 0");
  }
  return refuse(ReplyCode::kCommandInvalid,
                "unexpected connection method " + std::to_string(id & 0xffff));
}

Outcome<> Connection::on_handshake(uint32_t id, amqp::Reader& reader) {
  if (state_ == State::kStarting && id == amqp::ConnectionStartOk::kId) return on_start_ok(reader);
  if (state_ == State::kTuning && id == amqp::ConnectionTuneOk::kId) return on_tune_ok(reader);
  if (state_ == State::kOpening && id == amqp::ConnectionOpen::kId) return on_open(reader);
  return refuse(ReplyCode::kCommandInvalid, "unexpected method in the handshake");
}

Outcome<> Connection::on_start_ok(amqp::Reader& reader) {
  amqp::ConnectionStartOk method;
  if (!amqp::decode(reader, method)) {
    return refuse(ReplyCode::kSyntaxError, "malformed connection.start-ok");
  }
  client_properties_ = std::move(method.client_properties);
  std::string_view user, password;
  if (method.mechanism != "PLAIN") {
    return refuse(ReplyCode::kNotAllowed, "the mechanism is not offered; PLAIN is");
  }
  if (!parse_plain(method.response, user, password) ||
      !server_.authenticate(user, password, peer())) {
    spdlog::warn("amqp {}: login refused for user '{}'", peer(), user.substr(0, 64));
    auto refused = refuse(ReplyCode::kAccessRefused,
                          "Login was refused using authentication mechanism PLAIN. Users log in "
                          "with a valid name and password, and guest only from loopback.");
    if (client_capability("authentication_failure_close")) return refused;
    end("login refused");
    return {};
  }
  user_ = user;
  amqp::ConnectionTune tune;
  tune.channel_max = amqp::kChannelMax;
  tune.frame_max = amqp::kFrameMaxBytes;
  tune.heartbeat = amqp::kHeartbeatSeconds;
  state_ = State::kTuning;
  send(0, tune);
  return {};
}

Outcome<> Connection::on_tune_ok(amqp::Reader& reader) {
  amqp::ConnectionTuneOk method;
  if (!amqp::decode(reader, method)) {
    return refuse(ReplyCode::kSyntaxError, "malformed connection.tune-ok");
  }
  // 0 leaves it to us.
  if (method.frame_max == 0) method.frame_max = amqp::kFrameMaxBytes;
  if (method.channel_max == 0) method.channel_max = amqp::kChannelMax;
  if (method.frame_max > amqp::kFrameMaxBytes || method.frame_max < amqp::kFrameMinBytes) {
    return refuse(ReplyCode::kNotAllowed, "frame_max " + std::to_string(method.frame_max) +
                                              " is not between " +
                                              std::to_string(amqp::kFrameMinBytes) + " and " +
                                              std::to_string(amqp::kFrameMaxBytes));
  }
  if (method.channel_max > amqp::kChannelMax) {
    return refuse(ReplyCode::kNotAllowed,
                  "channel_max is at most " + std::to_string(amqp::kChannelMax));
  }
  frame_max_bytes_ = method.frame_max;
  channel_max_ = method.channel_max;
  heartbeat_s_ = method.heartbeat;
  state_ = State::kOpening;
  return {};
}

Outcome<> Connection::on_open(amqp::Reader& reader) {
  amqp::ConnectionOpen method;
  if (!amqp::decode(reader, method)) {
    return refuse(ReplyCode::kSyntaxError, "malformed connection.open");
  }
  if (method.virtual_host != virtual_host().name()) {
    return refuse(ReplyCode::kNotAllowed,
                  "vhost " + std::string(method.virtual_host) + " not found");
  }
  state_ = State::kOpen;
  if (heartbeat_s_ == 0) {
    timer_.stop();
  } else {
    timer_.start(heartbeat_s_ * 500, heartbeat_s_ * 500);
  }
  send(0, amqp::ConnectionOpenOk{});
  return {};
}

Outcome<> Connection::on_channel_frame(const amqp::Frame& frame) {
  auto found = channels_.find(frame.channel);
  Channel* channel = found != channels_.end() ? found->second.get() : nullptr;
  auto type = static_cast<amqp::FrameType>(frame.type);
  if (type == amqp::FrameType::kMethod) {
    amqp::Reader reader(frame.payload);
    uint32_t id = reader.u32();
    current_method_ = id;
    if (!reader.ok()) return refuse(ReplyCode::kFrameError, "a method frame without a method");
    uint32_t class_id = id >> 16;
    if (class_id == static_cast<uint16_t>(amqp::ClassId::kChannel)) {
      return on_channel_class(frame.channel, id, reader);
    }
    if (channel == nullptr) {
      return refuse(ReplyCode::kChannelError,
                    "expected 'channel.open' on channel " + std::to_string(frame.channel));
    }
    return channel->closing() ? Outcome<>() : channel->method(id, reader);
  }
  if (channel == nullptr) {
    return refuse(ReplyCode::kChannelError, "content on a channel that is not open");
  }
  if (channel->closing()) return {};
  return type == amqp::FrameType::kHeader ? channel->content_header(frame.payload)
                                          : channel->content_body(frame.payload);
}

Outcome<> Connection::on_channel_class(uint16_t number, uint32_t id, amqp::Reader& reader) {
  auto found = channels_.find(number);
  if (id == amqp::ChannelOpen::kId) {
    if (found != channels_.end()) {
      return refuse(ReplyCode::kChannelError, "second 'channel.open' seen");
    }
    if (number > channel_max_) {
      return refuse(ReplyCode::kNotAllowed, "channel number " + std::to_string(number) +
                                                " is over channel_max " +
                                                std::to_string(channel_max_));
    }
    channels_.emplace(number, std::make_unique<Channel>(*this, number));
    send(number, amqp::ChannelOpenOk{});
    return {};
  }
  if (found == channels_.end()) {
    // The answer to a close that crossed ours.
    if (id == amqp::ChannelCloseOk::kId) return {};
    return refuse(ReplyCode::kChannelError,
                  "expected 'channel.open' on channel " + std::to_string(number));
  }
  Channel& channel = *found->second;
  switch (id) {
    case amqp::ChannelClose::kId:
      channel.shut();
      channels_.erase(found);
      send(number, amqp::ChannelCloseOk{});
      return {};
    case amqp::ChannelCloseOk::kId:
      if (!channel.closing()) {
        return refuse(ReplyCode::kChannelError, "channel.close-ok without a close");
      }
      channels_.erase(found);
      return {};
    case amqp::ChannelFlow::kId: {
      amqp::ChannelFlow method;
      if (!amqp::decode(reader, method)) break;
      if (!method.active) {
        return refuse(ReplyCode::kNotImplemented, "channel.flow with active=false; use basic.qos");
      }
      amqp::ChannelFlowOk ok;
      ok.active = true;
      send(number, ok);
      return {};
    }
    case amqp::ChannelFlowOk::kId:
      return {};
    default:
      return refuse(ReplyCode::kCommandInvalid,
                    "unknown channel method " + std::to_string(id & 0xffff));
  }
  return refuse(ReplyCode::kSyntaxError, "malformed channel method");
}

void Connection::fail(uint16_t channel_number, const amqp::ProtocolError& error) {
  auto found = channels_.find(channel_number);
  if (!error.closes_connection() && state_ == State::kOpen && found != channels_.end()) {
    close_channel(*found->second, error);
    return;
  }
  spdlog::warn("amqp {}: closing: {}", peer(), error.text);
  amqp::ConnectionClose close;
  close.reply_code = static_cast<uint16_t>(error.code);
  close.reply_text = error.text;
  close.class_id = static_cast<uint16_t>(current_method_ >> 16);
  close.method = static_cast<uint16_t>(current_method_);
  bool open = state_ == State::kOpen;
  for (auto& [number, channel] : channels_) channel->shut();
  channels_.clear();
  virtual_host().connection_ended(this);
  body_stream_->clear();
  send(0, close);
  state_ = State::kClosing;
  release(kForSpace);  // to hear the answer
  // Before the handshake is done the peer need not know how to close; it is told and cut off.
  timer_.start(open ? amqp::kCloseMs : amqp::kCloseMs / 3);
}

void Connection::close_channel(Channel& channel, const amqp::ProtocolError& error) {
  spdlog::info("amqp {}: closing channel {}: {}", peer(), channel.number(), error.text);
  amqp::ChannelClose close;
  close.reply_code = static_cast<uint16_t>(error.code);
  close.reply_text = error.text;
  close.class_id = static_cast<uint16_t>(current_method_ >> 16);
  close.method = static_cast<uint16_t>(current_method_);
  channel.flush_confirms();
  channel.start_closing();
  send(channel.number(), close);
}

void Connection::shutdown(ReplyCode code, std::string_view text) {
  if (state_ == State::kEnded || state_ == State::kClosing) return;
  if (state_ != State::kOpen) {
    end("the broker stops");
    return;
  }
  current_method_ = 0;
  fail(0, refuse(code, text).error());
}

void Connection::end(std::string_view reason) {
  if (state_ == State::kEnded) return;
  spdlog::debug("amqp {}: ended: {}", peer(), reason);
  state_ = State::kEnded;
  timer_.stop();
  for (auto& [number, channel] : channels_) channel->shut();
  channels_.clear();
  virtual_host().connection_ended(this);
  body_stream_->clear();
  stream_->close();
  server_.ended(shared_from_this());
}

void Connection::sent() {
  sent_since_beat_ = true;
  stream_->touch();
  if (too_much_unsent()) hold(kForReader);
}

bool Connection::too_much_unsent() const {
  return body_stream_->body_count() > amqp::kOutputBodiesMax ||
         stream_->unsent_bytes() + body_stream_->waiting_bytes() > amqp::kOutputReadMaxBytes;
}

// The kernel has taken all output, or a large body is through.
void Connection::output_moved() {
  if (!too_much_unsent()) release(kForReader);
  if (congested()) return;
  for (auto& [number, channel] : channels_) channel->output_drained();
}

void Connection::beat() {
  if (state_ == State::kClosing || state_ == State::kEnded) {
    end("the peer did not answer the close");
    return;
  }
  if (state_ != State::kOpen) {
    spdlog::warn("amqp {}: handshake took longer than {} ms", peer(), amqp::kHandshakeMs);
    end("handshake timeout");
    return;
  }
  // A beat is half a heartbeat interval; two whole intervals of silence end the connection. One
  // that we do not read from can not be heard.
  silent_beats_ = received_since_beat_ || holds_ != 0 ? 0 : silent_beats_ + 1;
  received_since_beat_ = false;
  if (silent_beats_ >= 4) {
    spdlog::warn("amqp {}: missed heartbeats from client, timeout: {} s", peer(), heartbeat_s_);
    end("missed heartbeats");
    return;
  }
  if (!sent_since_beat_) {
    amqp::write_heartbeat(stream_->out());
    stream_->touch();
  }
  sent_since_beat_ = false;
}

void Connection::hold(Hold reason) {
  if (state_ == State::kEnded) return;
  holds_ |= reason;
  stream_->pause();
}

void Connection::release(Hold reason) {
  if ((holds_ & reason) == 0) return;
  holds_ &= ~static_cast<unsigned>(reason);
  if (holds_ == 0) stream_->resume();
}

void Connection::wait_until_durable(unsigned shard, std::function<void()> action) {
  hold(kForDurability);
  virtual_host().when_durable(ShardSet{1} << shard,
                              [weak = weak_from_this(), action = std::move(action)] {
                                auto self = weak.lock();
                                if (self == nullptr || self->state_ == State::kEnded) return;
                                if (self->state_ == State::kOpen) action();
                                self->release(kForDurability);
                              });
}

void Connection::body_failed(const Error& error) {
  spdlog::error("amqp {}: a message can not be delivered: {}", peer(), error.message);
  current_method_ = 0;
  fail(0, refuse(ReplyCode::kInternalError, "a message can not be read").error());
}

void Connection::throttle_publishing(ShardSet shards) { throttle(shards, kUnwrittenMaxBytes); }
void Connection::throttle_body() { throttle(virtual_host().here(), kBodyUnwrittenMaxBytes); }

void Connection::throttle(ShardSet shards, size_t unwritten_max_bytes) {
  auto shard = virtual_host().overloaded(shards, unwritten_max_bytes);
  if (!shard) return;
  hold(kForStore);
  virtual_host().when_durable(ShardSet{1} << *shard, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self != nullptr && self->state_ != State::kEnded) self->release(kForStore);
  });
}

Channel* Connection::open_channel(uint16_t number) {
  auto found = state_ == State::kOpen ? channels_.find(number) : channels_.end();
  return found == channels_.end() || found->second->closing() ? nullptr : found->second.get();
}

void Connection::block_publishing() {
  if (!server_.publishing_blocked() || state_ != State::kOpen || (holds_ & kForSpace) != 0) return;
  hold(kForSpace);
  if (!client_capability("connection.blocked")) return;
  amqp::ConnectionBlocked blocked;
  blocked.reason = *server_.publishing_blocked();
  send(0, blocked);
}

void Connection::unblock_publishing() {
  if ((holds_ & kForSpace) == 0) return;
  if (state_ == State::kOpen && client_capability("connection.blocked")) {
    send(0, amqp::ConnectionUnblocked{});
  }
  release(kForSpace);
}

void Connection::confirms_due(Channel& channel) {
  if (confirms_due_.empty()) {
    server_.confirms_due(this);
  } else if (confirms_due_.back() == channel.number()) {
    return;
  }
  confirms_due_.push_back(channel.number());
}

void Connection::flush_confirms() {
  for (uint16_t number : std::exchange(confirms_due_, {})) {
    auto found = channels_.find(number);
    if (found != channels_.end() && !found->second->closing()) found->second->flush_confirms();
  }
}

}  // namespace sluice::broker
