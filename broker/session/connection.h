#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "broker/amqp/error.h"
#include "broker/amqp/frame.h"
#include "broker/amqp/table.h"
#include "broker/net/handles.h"
#include "broker/net/stream.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/body_stream.h"
#include "broker/session/channel.h"

namespace sluice::broker {

class Server;

// An AMQP connection: handshake, heartbeats, channels, and the two ways to close. On the shard's
// thread; owned by the Server, which drops it some time after it ended.
//
// Input is parsed in place, frame by frame. A connection is not read from while it waits for a
// commit that its client must see done, while its client does not read, while the store has too
// much to write, or from its next publish on while the disk is nearly full.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Server& server, std::unique_ptr<net::Stream> stream);
  ~Connection();

  void start();
  // Connection.Close from our side, to a client that did nothing wrong.
  void shutdown(amqp::ReplyCode code, std::string_view text);

  VirtualHost& virtual_host();
  const std::string& user() const { return user_; }
  const std::string& peer() const { return stream_->peer(); }
  const amqp::Table& client_properties() const { return client_properties_; }
  bool client_capability(std::string_view name) const;
  size_t channel_count() const { return channels_.size(); }
  size_t consumer_count() const;
  std::string_view state_name() const;

  template <typename Method>
  void send(uint16_t channel, const Method& method) {
    amqp::write_method(out(channel), channel, method);
    sent();
  }
  // A method and the content that belongs to it; `external`, where it is not null, is the body.
  template <typename Method>
  void send_content(uint16_t channel, const Method& method, amqp::Bytes properties,
                    amqp::Bytes body, const storage::BodyPtr& external) {
    std::string& to = out(channel);
    amqp::write_method(to, channel, method);
    uint64_t body_bytes = external != nullptr ? external->bytes() : body.size();
    amqp::write_content_header(to, channel, properties, body_bytes);
    if (external != nullptr) {
      body_stream_->add(channel, external, frame_max_bytes_);
    } else {
      amqp::write_content_body(to, channel, body, frame_max_bytes_);
    }
    sent();
  }

  // Nothing more is handled from this connection until all changes up to now are durable on one
  // shard; then `action`, unless the connection is being closed by then. Until it has run, no
  // channel changes.
  void wait_until_durable(unsigned shard, std::function<void()> action);
  // The client reads too slowly for more deliveries, or is being sent a large one.
  bool congested() const {
    return body_stream_->active() || stream_->unsent_bytes() > amqp::kOutputDeliverMaxBytes;
  }
  // Nothing more is handled from this connection until another shard has answered.
  void wait_for_shard() { hold(kForShard); }
  void shard_answered() { release(kForShard); }
  // Null where there is none, or it or the connection is being closed.
  Channel* open_channel(uint16_t number);
  // Closes the channel or the connection, as the error wants it.
  void fail(uint16_t channel, const amqp::ProtocolError& error);
  // Called when something was published: holds the connection back where one of the shards that it
  // went to is behind with writing.
  void throttle_publishing(ShardSet shards);
  // Called in the middle of a publish: holds the connection back where publishing is blocked.
  void block_publishing();
  // Publishing is no longer blocked.
  void unblock_publishing();
  // The same for each part of an external body.
  void throttle_body();
  // A channel has confirms to send at the end of the turn.
  void confirms_due(Channel& channel);
  void flush_confirms();

 private:
  enum class State { kProtocolHeader, kStarting, kTuning, kOpening, kOpen, kClosing, kEnded };
  enum Hold : unsigned {
    kForDurability = 1,
    kForReader = 2,
    kForStore = 4,
    kForSpace = 8,
    kForShard = 16,
  };

  size_t on_data(amqp::Bytes bytes);
  bool protocol_header(amqp::Bytes bytes, size_t& taken);
  amqp::Outcome<> on_frame(const amqp::Frame& frame);
  amqp::Outcome<> on_connection_method(uint32_t id, amqp::Reader& reader);
  amqp::Outcome<> on_handshake(uint32_t id, amqp::Reader& reader);
  amqp::Outcome<> on_start_ok(amqp::Reader& reader);
  amqp::Outcome<> on_tune_ok(amqp::Reader& reader);
  amqp::Outcome<> on_open(amqp::Reader& reader);
  amqp::Outcome<> on_channel_frame(const amqp::Frame& frame);
  amqp::Outcome<> on_channel_class(uint16_t number, uint32_t id, amqp::Reader& reader);
  void send_start();
  void close_channel(Channel& channel, const amqp::ProtocolError& error);
  void end(std::string_view reason);
  // Where output for a channel goes: what is not the connection's own waits behind a large body.
  std::string& out(uint16_t channel) {
    return channel != 0 && body_stream_->active() ? body_stream_->behind() : stream_->out();
  }
  void sent();
  void output_moved();
  void throttle(ShardSet shards, size_t unwritten_max_bytes);
  void body_failed(const Error& error);
  bool too_much_unsent() const;
  void beat();
  void hold(Hold reason);
  void release(Hold reason);

  Server& server_;
  std::unique_ptr<net::Stream> stream_;
  std::shared_ptr<BodyStream> body_stream_;
  State state_ = State::kProtocolHeader;
  unsigned holds_ = 0;
  std::string user_;
  amqp::Table client_properties_;
  uint32_t frame_max_bytes_ = amqp::kFrameMaxBytes;
  uint16_t channel_max_ = amqp::kChannelMax;
  uint16_t heartbeat_s_ = 0;
  // Of the method being handled, for the close that names it.
  uint32_t current_method_ = 0;

  // One timer for what the state needs: the handshake, heartbeats, or the peer's Close-Ok.
  net::Timer timer_;
  bool received_since_beat_ = false;
  bool sent_since_beat_ = false;
  int silent_beats_ = 0;

  std::map<uint16_t, std::unique_ptr<Channel>> channels_;
  std::vector<uint16_t> confirms_due_;
};

}  // namespace sluice::broker
