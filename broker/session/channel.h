#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/amqp/error.h"
#include "broker/amqp/frame.h"
#include "broker/queue/bodies.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/confirms.h"
#include "broker/session/delivery.h"

namespace sluice::broker {

class Connection;

// One channel of a connection: the exchange, queue, basic and confirm classes, content on its way
// in, and what was delivered and is not yet acknowledged. Lives and dies with its connection, on
// the shard's thread.
//
// The methods that handle a frame return a refusal where the client erred; the connection then
// closes this channel or itself.
class Channel {
 public:
  Channel(Connection& connection, uint16_t number);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  uint16_t number() const { return number_; }
  Connection& connection() { return connection_; }

  amqp::Outcome<> method(uint32_t id, amqp::Reader& reader);
  amqp::Outcome<> content_header(amqp::Bytes payload);
  amqp::Outcome<> content_body(amqp::Bytes payload);

  // Cancels the consumers and gives back what is unacknowledged. After this nothing is delivered.
  void shut();
  // We have sent channel.close and wait for its Ok; until then all else is ignored.
  bool closing() const { return closing_; }
  void start_closing() {
    shut();
    closing_ = true;
  }

  // The connection can take output again.
  void output_drained();
  // Sends what confirms are due.
  void flush_confirms();
  size_t consumer_count() const { return consumers_.size(); }

 private:
  friend class ChannelConsumer;
  struct Publishing {
    std::string exchange, routing_key;
    bool mandatory = false;
    bool has_header = false;
    std::string properties;
    std::string body;
    std::optional<BodyWriter> external;  // takes the body where it is large
    uint64_t body_bytes = 0;
  };

  // By class; the id is the whole method's.
  amqp::Outcome<> exchange_method(uint32_t id, amqp::Reader& reader);
  amqp::Outcome<> queue_method(uint32_t id, amqp::Reader& reader);
  amqp::Outcome<> basic_method(uint32_t id, amqp::Reader& reader);

  amqp::Outcome<> on(const amqp::ExchangeDeclare& method);
  amqp::Outcome<> on(const amqp::ExchangeDelete& method);
  amqp::Outcome<> on(const amqp::QueueDeclare& method);
  amqp::Outcome<> on(const amqp::QueueBind& method);
  amqp::Outcome<> on(const amqp::QueueUnbind& method);
  amqp::Outcome<> on(const amqp::QueuePurge& method);
  amqp::Outcome<> on(const amqp::QueueDelete& method);
  amqp::Outcome<> on(const amqp::BasicQos& method);
  amqp::Outcome<> on(const amqp::BasicConsume& method);
  amqp::Outcome<> on(const amqp::BasicCancel& method);
  amqp::Outcome<> on(const amqp::BasicPublish& method);
  amqp::Outcome<> on(const amqp::BasicGet& method);
  amqp::Outcome<> on(const amqp::BasicAck& method);
  amqp::Outcome<> on(const amqp::BasicReject& method);
  amqp::Outcome<> on(const amqp::BasicNack& method);
  amqp::Outcome<> on(const amqp::BasicRecover& method);
  amqp::Outcome<> on(const amqp::BasicRecoverAsync& method);
  amqp::Outcome<> on(const amqp::ConfirmSelect& method);

  template <typename Method>
  amqp::Outcome<> handle(amqp::Reader& reader);
  template <typename Method>
  void send(const Method& method);
  // For changes that a client must find after a crash: answers when they are durable.
  template <typename Method>
  void send_when_durable(const Method& method, bool no_wait);
  // The same for what another shard may have to write.
  template <typename Method>
  void send_when_durable(const Method& method, bool no_wait, unsigned shard);

  amqp::Outcome<> publish(amqp::Bytes properties, amqp::Bytes body,
                          const storage::BodyPtr& external = nullptr);
  void deliver(ChannelConsumer& consumer, Entry entry);
  void consumer_cancelled(ChannelConsumer& consumer);
  VirtualHost& host();
  amqp::Outcome<std::string_view> queue_name(std::string_view given) const;

  using Verdict = VirtualHost::Verdict;
  amqp::Outcome<> settle(uint64_t tag, bool multiple, Verdict verdict);
  void apply(std::vector<Unacked> unacked, Verdict verdict);
  void get_elsewhere(const std::shared_ptr<Queue>& queue, bool no_ack);
  // A message for basic.get, and how many are left.
  struct Fetched {
    std::optional<Entry> entry;
    size_t left = 0;
    bool locked = false;  // an exclusive consumer has the queue
  };
  static Fetched fetch(Queue& queue);
  amqp::Outcome<> got(const std::shared_ptr<Queue>& queue, Fetched fetched, bool no_ack);
  bool below_channel_prefetch() const {
    return channel_prefetch_ == 0 || unacked_.count() < channel_prefetch_;
  }

  Connection& connection_;
  const uint16_t number_;
  bool closing_ = false;
  bool shut_ = false;

  std::unique_ptr<Publishing> publishing_;
  std::shared_ptr<Confirms> confirms_;

  std::map<std::string, std::shared_ptr<ChannelConsumer>, std::less<>> consumers_;
  UnackedList unacked_;
  ShardSet settled_on_ = 0;  // where acknowledgements went since the last confirmed publish
  uint64_t last_delivery_tag_ = 0;
  uint16_t consumer_prefetch_ = 0;  // for consumers to come
  uint16_t channel_prefetch_ = 0;
  std::string last_queue_;  // what an empty queue name stands for
};

}  // namespace sluice::broker
