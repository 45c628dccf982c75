#pragma once

#include <array>
#include <cstdint>

#include "broker/queue/policy.h"

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
  uint64_t discarded = 0;  // dead where no dead-letter exchange is set, or it leads nowhere
  // Dead messages that were not put into a queue again in which they had died without being
  // rejected since.
  uint64_t dead_letter_cycles = 0;
  std::array<uint64_t, kDeathReasonCount> dead = {};  // by DeathReason
};

}  // namespace sluice::broker
