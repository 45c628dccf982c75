#pragma once

#include <cstdint>
#include <vector>

#include "broker/dispatch/subscription.h"

namespace sluice::broker {

// Messages on their way through the function. Until the call's end the first shard may read it.
struct Subscription::Call {
  std::vector<Entry> entries;
  const uint64_t bytes;
  const uint64_t epoch;
  // What the first shard needs of it.
  VirtualHost* const host;
  const Functions::VersionPtr function;
  const Functions::Caller caller;
};

}  // namespace sluice::broker
