#include "broker/session/remote_consumer.h"

#include "broker/session/delivery.h"

namespace sluice::broker {

namespace {

// What may be under way to one consumer.
constexpr size_t kUnderWayMax = 1024;
constexpr size_t kUnderWayBytesMax = 1u << 20;

}  // namespace

bool RemoteConsumer::can_take() const {
  return (prefetch_ == 0 || unacked_count_ < prefetch_) && under_way_ < kUnderWayMax &&
         under_way_bytes_ < kUnderWayBytesMax;
}

bool RemoteConsumer::much_under_way(size_t count, size_t bytes) {
  return count >= kUnderWayMax / 4 || bytes >= kUnderWayBytesMax / 4;
}

void RemoteConsumer::take(Queue&, Entry entry) {
  ++unacked_count_;
  ++under_way_;
  under_way_bytes_ += entry.record_bytes;
  bool on_disk = queue_->is_on_disk(entry);
  courier_.send(home_.courier().here(), [consumer = consumer_, queue = queue_, &home = home_,
                                         entry = std::move(entry), on_disk]() mutable {
    if (auto to = consumer.lock()) {
      to->arrived({std::move(entry), on_disk});
    } else {
      home.apply(queue, std::move(entry), VirtualHost::Verdict::kGiveBack);
    }
  });
}

void RemoteConsumer::queue_deleted(Queue& queue) {
  gone_ = true;
  courier_.send(home_.courier().here(), [consumer = consumer_, &queue, keep = queue_] {
    if (auto to = consumer.lock()) to->queue_deleted(queue);
  });
}

void RemoteConsumer::reported(Report report) {
  under_way_ -= report.delivered;
  under_way_bytes_ -= report.delivered_bytes;
  unacked_count_ -= report.freed;
  for (const Entry& entry : report.settled) queue_->settle(entry);
  if (!gone_) queue_->consumer_ready(this);
}

void RemoteConsumer::leave() {
  if (gone_) return;
  gone_ = true;
  queue_->remove_consumer(this);
}

}  // namespace sluice::broker
