#include "broker/session/channel.h"

#include <random>
#include <utility>

#include "base/check.h"
#include "broker/session/connection.h"

namespace sluice::broker {

namespace {

using amqp::Outcome;
using amqp::refuse;
using amqp::ReplyCode;

std::string made_up_tag() {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::string tag = "amq.ctag-";
  for (int i = 0; i < 22; ++i) tag += kDigits[random() % 16];
  return tag;
}

}  // namespace

Channel::Channel(Connection& connection, uint16_t number)
    : connection_(connection), number_(number) {}

Channel::~Channel() { CHECK(shut_); }

VirtualHost& Channel::host() { return connection_.virtual_host(); }

template <typename Method>
void Channel::send(const Method& method) {
  connection_.send(number_, method);
}

template <typename Method>
void Channel::send_when_durable(const Method& method, bool no_wait) {
  if (host().journal().busy()) {
    send_when_durable(method, no_wait, host().courier().here());
  } else if (!no_wait) {
    send(method);
  }
}

template <typename Method>
void Channel::send_when_durable(const Method& method, bool no_wait, unsigned shard) {
  connection_.wait_until_durable(shard,
                                 [&connection = connection_, number = number_, method, no_wait] {
                                   if (!no_wait) connection.send(number, method);
                                 });
}

template <typename Method>
Outcome<> Channel::handle(amqp::Reader& reader) {
  Method method;
  if (!amqp::decode(reader, method)) {
    return refuse(ReplyCode::kSyntaxError, "malformed method arguments");
  }
  return on(method);
}

Outcome<> Channel::method(uint32_t id, amqp::Reader& reader) {
  if (publishing_ != nullptr) {
    return refuse(ReplyCode::kUnexpectedFrame, "expected content, got a method");
  }
  switch (static_cast<amqp::ClassId>(id >> 16)) {
    case amqp::ClassId::kExchange:
      return exchange_method(id, reader);
    case amqp::ClassId::kQueue:
      return queue_method(id, reader);
    case amqp::ClassId::kBasic:
      return basic_method(id, reader);
    case amqp::ClassId::kConfirm:
      if (id == amqp::ConfirmSelect::kId) return handle<amqp::ConfirmSelect>(reader);
      break;
    case amqp::ClassId::kTx:
      return refuse(ReplyCode::kNotImplemented, "transactions; use confirms");
    default:
      break;
  }
  return refuse(ReplyCode::kCommandInvalid,
                "unknown method " + std::to_string(id >> 16) + "." + std::to_string(id & 0xffff));
}

Outcome<> Channel::exchange_method(uint32_t id, amqp::Reader& reader) {
  switch (id) {
    case amqp::ExchangeDeclare::kId:
      return handle<amqp::ExchangeDeclare>(reader);
    case amqp::ExchangeDelete::kId:
      return handle<amqp::ExchangeDelete>(reader);
    default:
      return refuse(ReplyCode::kNotImplemented, "this exchange method");
  }
}

Outcome<> Channel::queue_method(uint32_t id, amqp::Reader& reader) {
  switch (id) {
    case amqp::QueueDeclare::kId:
      return handle<amqp::QueueDeclare>(reader);
    case amqp::QueueBind::kId:
      return handle<amqp::QueueBind>(reader);
    case amqp::QueueUnbind::kId:
      return handle<amqp::QueueUnbind>(reader);
    case amqp::QueuePurge::kId:
      return handle<amqp::QueuePurge>(reader);
    case amqp::QueueDelete::kId:
      return handle<amqp::QueueDelete>(reader);
    default:
      return refuse(ReplyCode::kNotImplemented, "this queue method");
  }
}

Outcome<> Channel::basic_method(uint32_t id, amqp::Reader& reader) {
  switch (id) {
    case amqp::BasicPublish::kId:
      return handle<amqp::BasicPublish>(reader);
    case amqp::BasicAck::kId:
      return handle<amqp::BasicAck>(reader);
    case amqp::BasicNack::kId:
      return handle<amqp::BasicNack>(reader);
    case amqp::BasicReject::kId:
      return handle<amqp::BasicReject>(reader);
    case amqp::BasicGet::kId:
      return handle<amqp::BasicGet>(reader);
    case amqp::BasicConsume::kId:
      return handle<amqp::BasicConsume>(reader);
    case amqp::BasicCancel::kId:
      return handle<amqp::BasicCancel>(reader);
    case amqp::BasicQos::kId:
      return handle<amqp::BasicQos>(reader);
    case amqp::BasicRecover::kId:
      return handle<amqp::BasicRecover>(reader);
    case amqp::BasicRecoverAsync::kId:
      return handle<amqp::BasicRecoverAsync>(reader);
    case amqp::BasicCancelOk::kId:
      return {};  // the answer to our cancel
    default:
      return refuse(ReplyCode::kNotImplemented, "this basic method");
  }
}

Outcome<> Channel::on(const amqp::ExchangeDeclare& method) {
  VirtualHost& vhost = host();
  if (method.passive) {
    auto exchange = vhost.use_exchange(method.exchange);
    if (!exchange) return std::unexpected(exchange.error());
    if (!method.no_wait) send(amqp::ExchangeDeclareOk{});
    return {};
  }
  auto declared = vhost.declare_exchange({.name = std::string(method.exchange),
                                          .type = std::string(method.type),
                                          .durable = method.durable,
                                          .auto_delete = method.auto_delete,
                                          .internal = method.internal,
                                          .arguments = method.arguments});
  if (!declared) return std::unexpected(declared.error());
  send_when_durable(amqp::ExchangeDeclareOk{}, method.no_wait);
  return {};
}

Outcome<> Channel::on(const amqp::ExchangeDelete& method) {
  auto outcome = host().delete_exchange(method.exchange, method.if_unused);
  if (!outcome) return outcome;
  send_when_durable(amqp::ExchangeDeleteOk{}, method.no_wait);
  return {};
}

Outcome<std::string_view> Channel::queue_name(std::string_view given) const {
  if (!given.empty()) return given;
  if (last_queue_.empty()) return refuse(ReplyCode::kNotFound, "no previously declared queue");
  return std::string_view(last_queue_);
}

Outcome<> Channel::on(const amqp::QueueDeclare& method) {
  VirtualHost& vhost = host();
  VirtualHost::Change change(vhost);  // what it answers may be another shard's to know
  std::shared_ptr<Queue> queue;
  if (method.passive) {
    auto name = queue_name(method.queue);
    if (!name) return std::unexpected(name.error());
    auto used = vhost.use_queue(*name, &connection_);
    if (!used) return std::unexpected(used.error());
    queue = *used;
  } else {
    auto declared = vhost.declare_queue({.name = std::string(method.queue),
                                         .durable = method.durable,
                                         .exclusive = method.exclusive,
                                         .auto_delete = method.auto_delete,
                                         .arguments = method.arguments},
                                        &connection_);
    if (!declared) return std::unexpected(declared.error());
    queue = declared->queue;
  }
  last_queue_ = queue->name();
  amqp::QueueDeclareOk ok;
  ok.queue = queue->name();  // lives as long as the queue, which outlives the wait below
  ok.message_count = static_cast<uint32_t>(queue->ready_count());
  ok.consumer_count = static_cast<uint32_t>(queue->consumer_count());
  if (method.no_wait) return {};
  if (method.passive || !vhost.journal().busy()) {
    send(ok);
    return {};
  }
  connection_.wait_until_durable(
      vhost.courier().here(),
      [&connection = connection_, number = number_, ok, queue] { connection.send(number, ok); });
  return {};
}

Outcome<> Channel::on(const amqp::QueueBind& method) {
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  // As in RabbitMQ: where both are left out, the queue's name is the key too.
  bool named = !method.queue.empty() || !method.routing_key.empty();
  std::string_view key = named ? method.routing_key : *name;
  auto outcome = host().bind(*name, method.exchange, key, method.arguments, &connection_);
  if (!outcome) return outcome;
  send_when_durable(amqp::QueueBindOk{}, method.no_wait);
  return {};
}

Outcome<> Channel::on(const amqp::QueueUnbind& method) {
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  auto outcome =
      host().unbind(*name, method.exchange, method.routing_key, method.arguments, &connection_);
  if (!outcome) return outcome;
  send_when_durable(amqp::QueueUnbindOk{}, false);
  return {};
}

Outcome<> Channel::on(const amqp::QueuePurge& method) {
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  VirtualHost::Change change(host());
  auto queue = host().use_queue(*name, &connection_);
  if (!queue) return std::unexpected(queue.error());
  amqp::QueuePurgeOk ok;
  ok.message_count = static_cast<uint32_t>((*queue)->purge());
  send_when_durable(ok, method.no_wait, (*queue)->shard);
  return {};
}

Outcome<> Channel::on(const amqp::QueueDelete& method) {
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  auto count = host().delete_queue(*name, method.if_unused, method.if_empty, &connection_);
  if (!count) return std::unexpected(count.error());
  amqp::QueueDeleteOk ok;
  ok.message_count = static_cast<uint32_t>(*count);
  send_when_durable(ok, method.no_wait);
  return {};
}

Outcome<> Channel::on(const amqp::ConfirmSelect& method) {
  if (confirms_ == nullptr) {
    confirms_ = std::make_shared<Confirms>(
        [this](uint64_t tag, bool multiple) {
          amqp::BasicAck ack;
          ack.delivery_tag = tag;
          ack.multiple = multiple;
          send(ack);
        },
        [this] { connection_.confirms_due(*this); });
  }
  if (!method.no_wait) send(amqp::ConfirmSelectOk{});
  return {};
}

Outcome<> Channel::on(const amqp::BasicPublish& method) {
  if (method.immediate) return refuse(ReplyCode::kNotImplemented, "immediate=true");
  publishing_ = std::make_unique<Publishing>();
  publishing_->exchange = method.exchange;
  publishing_->routing_key = method.routing_key;
  publishing_->mandatory = method.mandatory;
  connection_.block_publishing();
  return {};
}

Outcome<> Channel::content_header(amqp::Bytes payload) {
  if (publishing_ == nullptr || publishing_->has_header) {
    return refuse(ReplyCode::kUnexpectedFrame, "a content header that no method announced");
  }
  amqp::Reader reader(payload);
  uint16_t class_id = reader.u16();
  reader.u16();  // weight: unused
  uint64_t body_bytes = reader.u64();
  amqp::Bytes properties = reader.take(reader.left());
  if (!reader.ok() || properties.size() < 2) {
    return refuse(ReplyCode::kSyntaxError, "a content header is cut short");
  }
  if (class_id != static_cast<uint16_t>(amqp::ClassId::kBasic)) {
    return refuse(ReplyCode::kUnexpectedFrame,
                  "expected a content header of class 60, got " + std::to_string(class_id));
  }
  auto decoded = amqp::Properties::decode(properties);
  if (!decoded) return refuse(ReplyCode::kSyntaxError, "malformed content properties");
  if (body_bytes > amqp::kBodyMaxBytes) {
    publishing_.reset();
    return refuse(ReplyCode::kPreconditionFailed, "message size " + std::to_string(body_bytes) +
                                                      " is larger than configured max size " +
                                                      std::to_string(amqp::kBodyMaxBytes));
  }
  if (decoded->user_id && *decoded->user_id != connection_.user()) {
    publishing_.reset();
    return refuse(ReplyCode::kPreconditionFailed, "user_id property set to '" + *decoded->user_id +
                                                      "' but authenticated user was '" +
                                                      connection_.user() + "'");
  }
  if (body_bytes == 0) return publish(properties, {});
  publishing_->has_header = true;
  publishing_->body_bytes = body_bytes;
  publishing_->properties = amqp::as_text(properties);
  if (body_bytes > storage::kInlineBodyBytesMax) {
    publishing_->external.emplace(host().bodies().writer(body_bytes));
  }
  return {};
}

Outcome<> Channel::content_body(amqp::Bytes payload) {
  if (publishing_ == nullptr || !publishing_->has_header) {
    return refuse(ReplyCode::kUnexpectedFrame, "a content body that no header announced");
  }
  Publishing& p = *publishing_;
  uint64_t left = p.external ? p.external->left() : p.body_bytes - p.body.size();
  if (payload.size() > left) {
    return refuse(ReplyCode::kFrameError, "the content is longer than its header announced");
  }
  if (p.external) {
    p.external->add(payload);
    connection_.throttle_body();
    if (p.external->left() > 0) return {};
    return publish(amqp::as_bytes(p.properties), {}, p.external->finish());
  }
  if (p.body.empty() && payload.size() == p.body_bytes) {
    return publish(amqp::as_bytes(p.properties), payload);
  }
  if (p.body.empty()) p.body.reserve(p.body_bytes);
  p.body.append(amqp::as_text(payload));
  if (p.body.size() < p.body_bytes) {
    connection_.block_publishing();
    return {};
  }
  return publish(amqp::as_bytes(p.properties), amqp::as_bytes(p.body));
}

Outcome<> Channel::publish(amqp::Bytes properties, amqp::Bytes body,
                           const storage::BodyPtr& external) {
  auto p = std::move(publishing_);  // whatever comes of it, the content is complete
  VirtualHost& vhost = host();
  if (!p->exchange.empty()) {
    auto exchange = vhost.use_exchange(p->exchange);
    if (!exchange) return std::unexpected(exchange.error());
    if ((*exchange)->settings().internal) {
      return refuse(ReplyCode::kAccessRefused,
                    "cannot publish to internal exchange '" + p->exchange + "'");
    }
  }
  auto published = vhost.publish({p->exchange, p->routing_key, properties, body, external});
  if (!published) return std::unexpected(published.error());
  Counters& counters = vhost.counters();
  ++counters.published;
  if (published->queue_count == 0) {
    if (p->mandatory) {
      ++counters.returned_unroutable;
      amqp::BasicReturn returned;
      returned.reply_code = static_cast<uint16_t>(ReplyCode::kNoRoute);
      returned.reply_text = "NO_ROUTE";
      returned.exchange = p->exchange;
      returned.routing_key = p->routing_key;
      connection_.send_content(number_, returned, properties, body, external);
    } else {
      ++counters.dropped_unroutable;
    }
  }
  if (confirms_ != nullptr) {
    if (published->stored != 0) {
      confirms_->published(vhost, published->stored, std::exchange(settled_on_, 0));
    } else {
      confirms_->published_now();
      connection_.confirms_due(*this);
    }
  }
  // Whatever the message asked for: where it does not fit RAM it is written, too.
  connection_.throttle_publishing(published->shards);
  return {};
}

void Channel::flush_confirms() {
  if (confirms_ == nullptr) return;
  uint64_t sent = confirms_->flush();
  host().counters().confirmed += sent;
}

Outcome<> Channel::on(const amqp::BasicQos& method) {
  if (method.prefetch_size != 0) {
    return refuse(ReplyCode::kNotImplemented,
                  "prefetch_size!=0 (" + std::to_string(method.prefetch_size) + ")");
  }
  if (method.global) {
    channel_prefetch_ = method.prefetch_count;
  } else {
    consumer_prefetch_ = method.prefetch_count;
  }
  send(amqp::BasicQosOk{});
  if (method.global) output_drained();  // the limit may have risen
  return {};
}

Outcome<> Channel::on(const amqp::BasicConsume& method) {
  VirtualHost& vhost = host();
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  VirtualHost::Change change(vhost);
  auto queue = vhost.use_queue(*name, &connection_);
  if (!queue) return std::unexpected(queue.error());
  std::string tag(method.consumer_tag);
  if (tag.empty()) tag = made_up_tag();
  if (consumers_.contains(tag)) {
    return refuse(ReplyCode::kNotAllowed, "attempt to reuse consumer tag '" + tag + "'");
  }
  if ((*queue)->has_exclusive_consumer() || (method.exclusive && (*queue)->consumer_count() > 0)) {
    return refuse(ReplyCode::kAccessRefused, "queue '" + std::string(*name) + "' in vhost '" +
                                                 vhost.name() + "' in exclusive use");
  }
  auto consumer = std::make_shared<ChannelConsumer>(*this, vhost, tag, *queue, method.no_ack,
                                                    consumer_prefetch_);
  consumers_.emplace(tag, consumer);
  if (!method.no_wait) {
    amqp::BasicConsumeOk ok;
    ok.consumer_tag = tag;
    send(ok);
  }
  consumer->begin(method.exclusive);
  return {};
}

Outcome<> Channel::on(const amqp::BasicCancel& method) {
  auto found = consumers_.find(method.consumer_tag);
  if (found != consumers_.end()) {
    auto consumer = found->second;
    consumers_.erase(found);
    consumer->leave();
  }
  if (!method.no_wait) {
    amqp::BasicCancelOk ok;
    ok.consumer_tag = method.consumer_tag;
    send(ok);
  }
  return {};
}

void Channel::consumer_cancelled(ChannelConsumer& consumer) {
  if (connection_.client_capability("consumer_cancel_notify")) {
    amqp::BasicCancel cancel;
    cancel.consumer_tag = consumer.tag();
    cancel.no_wait = true;
    send(cancel);
  }
  consumers_.erase(consumers_.find(consumer.tag()));
}

void Channel::deliver(ChannelConsumer& consumer, Entry entry) {
  Counters& counters = host().counters();
  ++counters.delivered;
  if (entry.redelivered) ++counters.redelivered;
  amqp::BasicDeliver method;
  method.consumer_tag = consumer.tag();
  method.delivery_tag = ++last_delivery_tag_;
  method.redelivered = entry.redelivered;
  method.exchange = entry.record->exchange();
  method.routing_key = entry.record->routing_key();
  connection_.send_content(number_, method, entry.record->properties(), entry.record->body(),
                           entry.record->external());
  if (consumer.no_ack()) {
    consumer.settle(std::move(entry));
    return;
  }
  ++consumer.unacked_count;
  consumer.delivered(entry);
  unacked_.add(
      {last_delivery_tag_, consumer.queue(), consumer.shared_from_this(), std::move(entry)});
}

Outcome<> Channel::on(const amqp::BasicGet& method) {
  auto name = queue_name(method.queue);
  if (!name) return std::unexpected(name.error());
  auto queue = host().use_queue(*name, &connection_);
  if (!queue) return std::unexpected(queue.error());
  if (host().is_here(**queue)) return got(*queue, fetch(**queue), method.no_ack);
  get_elsewhere(*queue, method.no_ack);
  return {};
}

// On the queue's shard.
Channel::Fetched Channel::fetch(Queue& queue) {
  if (queue.has_exclusive_consumer()) return {.locked = true};
  auto entry = queue.removed() ? std::nullopt : queue.take();
  return {.entry = std::move(entry), .left = queue.ready_count()};
}

// The connection waits for the queue's shard to answer.
void Channel::get_elsewhere(const std::shared_ptr<Queue>& queue, bool no_ack) {
  connection_.wait_for_shard();
  host().courier().send(queue->shard, [&here = host(), queue, no_ack, number = number_,
                                       weak = connection_.weak_from_this()] {
    auto answer = [&here, queue, no_ack, number, weak, fetched = fetch(*queue)]() mutable {
      auto connection = weak.lock();
      Channel* channel = connection != nullptr ? connection->open_channel(number) : nullptr;
      if (channel == nullptr) {
        if (fetched.entry) here.apply(queue, std::move(*fetched.entry), Verdict::kGiveBack);
      } else if (auto got = channel->got(queue, std::move(fetched), no_ack); !got) {
        connection->fail(number, got.error());
      }
      if (connection != nullptr) connection->shard_answered();
    };
    here.host_of(*queue).courier().send(here.courier().here(), std::move(answer));
  });
}

Outcome<> Channel::got(const std::shared_ptr<Queue>& queue, Fetched fetched, bool no_ack) {
  if (fetched.locked) {
    return refuse(ReplyCode::kAccessRefused, "queue '" + queue->name() + "' in exclusive use");
  }
  auto& entry = fetched.entry;
  if (!entry) {
    send(amqp::BasicGetEmpty{});
    return {};
  }
  ++host().counters().delivered;
  if (entry->redelivered) ++host().counters().redelivered;
  amqp::BasicGetOk ok;
  ok.delivery_tag = ++last_delivery_tag_;
  ok.redelivered = entry->redelivered;
  ok.exchange = entry->record->exchange();
  ok.routing_key = entry->record->routing_key();
  ok.message_count = static_cast<uint32_t>(fetched.left);
  connection_.send_content(number_, ok, entry->record->properties(), entry->record->body(),
                           entry->record->external());
  if (no_ack) {
    host().apply(queue, std::move(*entry), Verdict::kSettle);
  } else {
    unacked_.add({last_delivery_tag_, queue, nullptr, std::move(*entry)});
  }
  return {};
}

Outcome<> Channel::on(const amqp::BasicAck& method) {
  return settle(method.delivery_tag, method.multiple, Verdict::kSettle);
}
Outcome<> Channel::on(const amqp::BasicReject& method) {
  return settle(method.delivery_tag, false, method.requeue ? Verdict::kRequeue : Verdict::kReject);
}
Outcome<> Channel::on(const amqp::BasicNack& method) {
  return settle(method.delivery_tag, method.multiple,
                method.requeue ? Verdict::kRequeue : Verdict::kReject);
}

Outcome<> Channel::on(const amqp::BasicRecover& method) {
  if (!method.requeue) return refuse(ReplyCode::kNotImplemented, "basic.recover requeue=false");
  // Answered first, as what goes back may come again at once.
  send(amqp::BasicRecoverOk{});
  return settle(0, true, Verdict::kRequeue);
}

Outcome<> Channel::on(const amqp::BasicRecoverAsync& method) {
  if (!method.requeue) return refuse(ReplyCode::kNotImplemented, "basic.recover requeue=false");
  return settle(0, true, Verdict::kRequeue);  // no answer is defined
}

Outcome<> Channel::settle(uint64_t tag, bool multiple, Verdict verdict) {
  auto taken = unacked_.take(tag, multiple);
  if (taken.empty() && !(tag == 0 && multiple)) {
    return refuse(ReplyCode::kPreconditionFailed, "unknown delivery tag " + std::to_string(tag));
  }
  std::vector<std::pair<std::shared_ptr<ChannelConsumer>, uint32_t>> freed;
  for (Unacked& unacked : taken) {
    if (unacked.consumer == nullptr) continue;
    if (freed.empty() || freed.back().first != unacked.consumer) {
      freed.emplace_back(unacked.consumer, 0);
    }
    ++freed.back().second;
  }
  if (verdict == Verdict::kSettle) host().counters().acked += taken.size();
  apply(std::move(taken), verdict);
  for (const auto& [consumer, count] : freed) consumer->freed(count);
  if (channel_prefetch_ != 0) output_drained();
  return {};
}

void Channel::apply(std::vector<Unacked> unacked, Verdict verdict) {
  for (size_t i = 0; i < unacked.size(); ++i) {
    const auto& queue = unacked[i].queue;
    settled_on_ |= ShardSet{1} << queue->shard;
    if (host().is_here(*queue)) {
      host().apply(queue, std::move(unacked[i].entry), verdict);
      continue;
    }
    if (verdict == Verdict::kSettle && unacked[i].consumer != nullptr) {
      unacked[i].consumer->settle(std::move(unacked[i].entry));
      continue;
    }
    // Those of a queue that follow each other go in one piece.
    std::vector<Entry> entries;
    size_t end = i;
    for (; end < unacked.size() && unacked[end].queue == queue; ++end) {
      entries.push_back(std::move(unacked[end].entry));
    }
    host().apply(queue, std::move(entries), verdict);
    i = end - 1;
  }
}

void Channel::output_drained() {
  // A copy: delivering may, at the far end, cancel a consumer.
  auto consumers = consumers_;
  for (const auto& [tag, consumer] : consumers) {
    if (consumers_.contains(tag)) consumer->ready();
  }
}

void Channel::shut() {
  if (shut_) return;
  shut_ = true;
  publishing_.reset();
  if (confirms_ != nullptr) confirms_->detach();
  auto consumers = std::exchange(consumers_, {});
  // All of them first, so that none takes what is given back.
  for (const auto& [tag, consumer] : consumers) consumer->stop();
  apply(unacked_.take(0, true), Verdict::kRequeue);
  for (const auto& [tag, consumer] : consumers) consumer->leave();
}

}  // namespace sluice::broker
