#include "broker/session/delivery.h"

#include "broker/session/channel.h"
#include "broker/session/connection.h"

namespace sluice::broker {

using Verdict = VirtualHost::Verdict;

bool ChannelConsumer::can_take() const {
  if (channel_.connection().congested()) return false;
  if (no_ack_) return true;
  return (prefetch_ == 0 || unacked_count < prefetch_) && channel_.below_channel_prefetch();
}

void ChannelConsumer::begin(bool exclusive) {
  if (host_.is_here(*queue_)) {
    queue_->add_consumer(this, exclusive);
    return;
  }
  remote_ = std::make_shared<RemoteConsumer>(queue_, host_, weak_from_this(),
                                             no_ack_ ? uint16_t{0} : prefetch_);
  queue_->add_consumer(remote_.get(), exclusive);
}

void ChannelConsumer::ready() {
  if (gone_) return;
  if (remote_ == nullptr) {
    queue_->consumer_ready(this);
  } else {
    deliver_arrived();
  }
}

void ChannelConsumer::take(Queue&, Entry entry) { channel_.deliver(*this, std::move(entry)); }

void ChannelConsumer::queue_deleted(Queue&) {
  if (std::exchange(gone_, true)) return;
  arrived_.clear();
  channel_.consumer_cancelled(*this);
}

void ChannelConsumer::settle(Entry entry) {
  if (remote_ == nullptr) {
    queue_->settle(entry);
  } else {
    report().settled.push_back(std::move(entry));
  }
}

void ChannelConsumer::delivered(Entry& entry) {
  if (remote_ == nullptr) {
    queue_->release(entry);
  } else if (on_disk_ && host_.memory_is_short()) {
    entry.record.reset();
  }
}

void ChannelConsumer::freed(uint32_t count) {
  unacked_count -= count;
  if (gone_) return;
  if (remote_ != nullptr) {
    report().freed += count;
    report_if_due();
  }
  ready();
}

void ChannelConsumer::arrived(Arrived arrived) {
  if (gone_) {
    host_.apply(queue_, std::move(arrived.entry), Verdict::kGiveBack);
    return;
  }
  arrived_.push_back(std::move(arrived));
  deliver_arrived();
}

void ChannelConsumer::deliver_arrived() {
  while (!arrived_.empty() && can_take()) {
    Arrived next = std::move(arrived_.front());
    arrived_.pop_front();
    auto& sum = report();
    ++sum.delivered;
    sum.delivered_bytes += next.entry.record_bytes;
    on_disk_ = next.on_disk;
    channel_.deliver(*this, std::move(next.entry));
    report_if_due();
  }
}

// What the queue's shard will be told next.
RemoteConsumer::Report& ChannelConsumer::report() {
  Courier& courier = host_.courier();
  if (report_ == nullptr || report_flush_ != courier.flush_number()) {
    report_ = std::make_shared<RemoteConsumer::Report>();
    report_flush_ = courier.flush_number();
    courier.send_later(queue_->shard, [remote = remote_, report = report_] {
      remote->reported(std::move(*report));
    });
  }
  return *report_;
}

// There is no hurry while the queue has leave to send more.
void ChannelConsumer::report_if_due() {
  const auto& sum = report();
  if (RemoteConsumer::much_under_way(sum.delivered, sum.delivered_bytes) ||
      (prefetch_ > 0 && sum.freed * 2 >= prefetch_)) {
    host_.courier().hurry(queue_->shard);
  }
}

void ChannelConsumer::stop() {
  if (std::exchange(gone_, true)) return;
  if (remote_ == nullptr) {
    queue_->remove_consumer(this);
    return;
  }
  host_.courier().send(queue_->shard, [remote = remote_] { remote->leave(); });
  std::vector<Entry> unseen;
  for (Arrived& arrived : std::exchange(arrived_, {})) unseen.push_back(std::move(arrived.entry));
  if (!unseen.empty()) host_.apply(queue_, std::move(unseen), Verdict::kGiveBack);
}

void ChannelConsumer::leave() {
  stop();
  if (remote_ == nullptr) {
    host_.consumer_left(queue_);
    return;
  }
  host_.courier().send(queue_->shard, [&there = host_.host_of(*queue_), queue = queue_] {
    there.consumer_left(queue);
  });
}

}  // namespace sluice::broker
