#pragma once

#include <cstdint>

namespace sluice::broker {

// What happened on a shard since the start, for the administration.
struct Counters {
  uint64_t published = 0;
  uint64_t confirmed = 0;
  uint64_t delivered = 0;  // pushed or fetched
  uint64_t redelivered = 0;
  uint64_t acked = 0;
  uint64_t returned_unroutable = 0;
  uint64_t dropped_unroutable = 0;
  uint64_t dead_lettered = 0;
  uint64_t discarded = 0;  // rejected without requeue where no dead-letter exchange is set

  Counters& operator+=(const Counters& other) {
    published += other.published;
    confirmed += other.confirmed;
    delivered += other.delivered;
    redelivered += other.redelivered;
    acked += other.acked;
    returned_unroutable += other.returned_unroutable;
    dropped_unroutable += other.dropped_unroutable;
    dead_lettered += other.dead_lettered;
    discarded += other.discarded;
    return *this;
  }
};

}  // namespace sluice::broker
