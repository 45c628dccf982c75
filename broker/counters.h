#pragma once

#include <array>
#include <cstdint>

#include "broker/queue/policy.h"

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
  uint64_t discarded = 0;  // dead where no dead-letter exchange is set, or it leads nowhere
  // Dead messages that were not put into a queue again in which they had died without being
  // rejected since.
  uint64_t dead_letter_cycles = 0;
  std::array<uint64_t, kDeathReasonCount> dead = {};  // by DeathReason

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
    dead_letter_cycles += other.dead_letter_cycles;
    for (size_t i = 0; i < dead.size(); ++i) dead[i] += other.dead[i];
    return *this;
  }
};

}  // namespace sluice::broker
