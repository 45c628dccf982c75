#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "broker/queue/queue.h"
#include "broker/session/remote_consumer.h"

namespace sluice::broker {

class Channel;

// A basic.consume: pushes a queue's messages to its channel within the prefetch. Where the queue is
// another shard's, a RemoteConsumer stands for it there, and sends here what is to be delivered.
class ChannelConsumer : public Consumer, public std::enable_shared_from_this<ChannelConsumer> {
 public:
  // `host` is the channel's shard's.
  ChannelConsumer(Channel& channel, VirtualHost& host, std::string tag,
                  std::shared_ptr<Queue> queue, bool no_ack, uint16_t prefetch)
      : channel_(channel),
        host_(host),
        tag_(std::move(tag)),
        queue_(std::move(queue)),
        no_ack_(no_ack),
        prefetch_(prefetch) {}

  bool can_take() const override;
  void take(Queue& queue, Entry entry) override;
  void queue_deleted(Queue& queue) override;

  const std::string& tag() const { return tag_; }
  const std::shared_ptr<Queue>& queue() const { return queue_; }
  bool no_ack() const { return no_ack_; }

  // Begins to consume; within a change where the queue is another shard's.
  void begin(bool exclusive);
  // It may be able to take again.
  void ready();
  // It takes nothing any more. What was sent here and not delivered goes back.
  void stop();
  // Ends it: an auto-delete queue may go with it.
  void leave();
  // A delivered message is done with.
  void settle(Entry entry);
  // A delivered message waits for its acknowledgement.
  void delivered(Entry& entry);
  // So many do not any more.
  void freed(uint32_t count);

  // From the RemoteConsumer.
  struct Arrived {
    Entry entry;
    bool on_disk;  // so the record may be dropped once it is delivered
  };
  void arrived(Arrived arrived);

  uint32_t unacked_count = 0;

 private:
  void deliver_arrived();
  RemoteConsumer::Report& report();
  void report_if_due();

  Channel& channel_;  // while it is not gone
  VirtualHost& host_;
  const std::string tag_;
  const std::shared_ptr<Queue> queue_;
  const bool no_ack_;
  const uint16_t prefetch_;

  // Only where the queue is another shard's.
  std::shared_ptr<RemoteConsumer> remote_;
  std::deque<Arrived> arrived_;  // to be delivered
  bool on_disk_ = false;         // of the one that is being delivered
  bool gone_ = false;
  // Under way to the queue's shard, but still here while the courier's flush number is this.
  std::shared_ptr<RemoteConsumer::Report> report_;
  uint64_t report_flush_ = 0;
};

// A delivery that waits for its acknowledgement. The consumer is null for basic.get.
struct Unacked {
  uint64_t tag = 0;
  std::shared_ptr<Queue> queue;  // null: acknowledged, the place is vacant
  std::shared_ptr<ChannelConsumer> consumer;
  Entry entry;
};

// A channel's unacknowledged deliveries, by ascending tag. Taking one out is a binary search;
// vacancies are swept when they outnumber what is left.
class UnackedList {
 public:
  size_t count() const { return list_.size() - vacant_; }

  void add(Unacked unacked) { list_.push_back(std::move(unacked)); }

  // Takes out the one with `tag`, or with `multiple` all up to it, in order; tag 0 with `multiple`
  // is all. Empty where `tag` is not outstanding (for 0: where nothing is).
  std::vector<Unacked> take(uint64_t tag, bool multiple) {
    std::vector<Unacked> taken;
    auto at = list_.end();
    if (!(tag == 0 && multiple)) {
      at = std::ranges::lower_bound(list_, tag, {}, &Unacked::tag);
      if (at == list_.end() || at->tag != tag || at->queue == nullptr) return taken;
      if (!multiple) {
        taken.push_back(std::move(*at));
        at->queue = nullptr;
        ++vacant_;
        sweep();
        return taken;
      }
      ++at;
    }
    taken.reserve(static_cast<size_t>(at - list_.begin()));
    for (auto it = list_.begin(); it != at; ++it) {
      if (it->queue == nullptr) {
        --vacant_;
      } else {
        taken.push_back(std::move(*it));
      }
    }
    list_.erase(list_.begin(), at);
    return taken;
  }

 private:
  void sweep() {
    while (!list_.empty() && list_.front().queue == nullptr) {
      list_.pop_front();
      --vacant_;
    }
    if (vacant_ > 64 && vacant_ > count()) {
      std::erase_if(list_, [](const Unacked& u) { return u.queue == nullptr; });
      vacant_ = 0;
    }
  }

  std::deque<Unacked> list_;
  size_t vacant_ = 0;
};

}  // namespace sluice::broker
