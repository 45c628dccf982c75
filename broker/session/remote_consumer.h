#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "broker/routing/virtual_host.h"

namespace sluice::broker {

class ChannelConsumer;

// Stands at a queue for a consumer whose channel is on another shard, within the same prefetch.
// What it takes is sent there; so much is under way at most that the channel's shard holds little
// of what its client does not read. On the thread of the queue's shard.
class RemoteConsumer : public Consumer, public std::enable_shared_from_this<RemoteConsumer> {
 public:
  // `home` is the consumer's shard's. `prefetch` 0 is no limit.
  RemoteConsumer(std::shared_ptr<Queue> queue, VirtualHost& home,
                 std::weak_ptr<ChannelConsumer> consumer, uint16_t prefetch)
      : queue_(std::move(queue)),
        courier_(home.host_of(*queue_).courier()),
        home_(home),
        consumer_(std::move(consumer)),
        prefetch_(prefetch) {}

  bool can_take() const override;
  void take(Queue& queue, Entry entry) override;
  void queue_deleted(Queue& queue) override;

  // What the other side has done since it last said so.
  struct Report {
    size_t delivered = 0;        // messages that are with the client
    size_t delivered_bytes = 0;  // their records'
    uint32_t freed = 0;          // of the prefetch
    std::vector<Entry> settled;  // messages that are done with
  };
  void reported(Report report);
  // A good part of what may be under way to one consumer.
  static bool much_under_way(size_t count, size_t bytes);
  // The consumer is no more.
  void leave();

 private:
  const std::shared_ptr<Queue> queue_;
  Courier& courier_;  // of the queue's shard
  VirtualHost& home_;
  const std::weak_ptr<ChannelConsumer> consumer_;
  const uint16_t prefetch_;
  uint32_t unacked_count_ = 0;
  size_t under_way_ = 0;
  size_t under_way_bytes_ = 0;
  bool gone_ = false;
};

}  // namespace sluice::broker
