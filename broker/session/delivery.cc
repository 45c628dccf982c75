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
    report_.settled.push_back(std::move(entry));
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
    report_.freed += count;
    report();
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
    ++report_.delivered;
    report_.delivered_bytes += next.entry.record_bytes;
    on_disk_ = next.on_disk;
    channel_.deliver(*this, std::move(next.entry));
    report_soon();
  }
}

// At the next turn: what is delivered in this one is told in one piece.
void ChannelConsumer::report_soon() {
  if (std::exchange(reporting_, true)) return;
  host_.courier().send(host_.courier().here(), [self = shared_from_this()] {
    self->reporting_ = false;
    self->report();
  });
}

void ChannelConsumer::report() {
  if (report_.delivered == 0 && report_.freed == 0) return;
  host_.courier().send(queue_->shard,
                       [remote = remote_, report = std::exchange(report_, {})]() mutable {
                         remote->reported(std::move(report));
                       });
}

void ChannelConsumer::stop() {
  if (std::exchange(gone_, true)) return;
  if (remote_ == nullptr) {
    queue_->remove_consumer(this);
    return;
  }
  host_.courier().send(queue_->shard, [remote = remote_] { remote->leave(); });
  report();
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
