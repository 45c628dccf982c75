#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

namespace sluice::broker {

class Queue;
struct Entry;

// What happens to a message for which a queue has no room.
enum class Overflow : uint8_t {
  kDropHead,          // it is taken; the oldest one of the lowest priority dies
  kRejectPublish,     // it is refused
  kRejectPublishDlx,  // it is refused, and dies
};

// Why a queue gives a message up. The names are those that RabbitMQ writes into x-death.
enum class DeathReason : uint8_t { kRejected, kExpired, kMaxlen, kDeliveryLimit };
inline constexpr size_t kDeathReasonCount = 4;

constexpr std::string_view name_of(DeathReason reason) {
  switch (reason) {
    case DeathReason::kRejected:
      return "rejected";
    case DeathReason::kExpired:
      return "expired";
    case DeathReason::kMaxlen:
      return "maxlen";
    case DeathReason::kDeliveryLimit:
      return "delivery_limit";
  }
  return {};
}

// What a queue's owner asks of it. All but `priority_max` may change while it lives.
struct QueuePolicy {
  // Levels 0..priority_max. Each has a storage id of its own, from the queue's on.
  uint8_t priority_max = 0;
  // Of ready messages; the bytes are those of their bodies.
  std::optional<uint64_t> count_max;
  std::optional<uint64_t> bytes_max;
  Overflow overflow = Overflow::kDropHead;
  // How often a message may be given back before it dies.
  std::optional<uint32_t> delivery_limit;
};

// How a message is put into a queue.
struct Placing {
  bool persistent = false;  // written, if the queue stores any
  uint8_t priority = 0;     // a higher one than the queue has counts as its highest
};

enum class Accepted : uint8_t {
  kInRam,
  kStored,   // is being written because it asked for it
  kRefused,  // is not in the queue
};

// Takes over a message that died in a queue: publishes it elsewhere or discards it, and settles it
// in the same turn of the loop as that, so that both commit together. An entry whose sequence is 0
// was refused: it is not in the queue, and is not settled.
using DeadLetter = std::function<void(const std::shared_ptr<Queue>&, Entry, DeathReason)>;

}  // namespace sluice::broker
