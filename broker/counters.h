#pragma once

#include <cstdint>

namespace sluice::broker {

// What happened since the start, for the administration. Written and read by the shard's thread.
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
};

}  // namespace sluice::broker
