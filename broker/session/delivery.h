#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "broker/queue/queue.h"

namespace sluice::broker {

class Channel;

// A basic.consume: pushes a queue's messages to its channel within the prefetch.
class ChannelConsumer : public Consumer, public std::enable_shared_from_this<ChannelConsumer> {
 public:
  ChannelConsumer(Channel& channel, std::string tag, std::shared_ptr<Queue> queue, bool no_ack,
                  uint16_t prefetch)
      : channel_(channel),
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

  uint32_t unacked_count = 0;

 private:
  Channel& channel_;
  const std::string tag_;
  const std::shared_ptr<Queue> queue_;
  const bool no_ack_;
  const uint16_t prefetch_;
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
