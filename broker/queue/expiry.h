#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>

#include "broker/queue/alarms.h"
#include "storage/record.h"

namespace sluice::broker {

// When the messages of a queue expire: so long after they were published, or became due, as their
// queue or they themselves say, whichever is shorter. Wakes the queue when its first message does.
//
// On the shard's thread.
class Expiry {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // `wake` is to look at the first message.
  Expiry(Alarms& alarms, std::optional<uint64_t> ttl_ms, std::function<void()> wake)
      : alarms_(alarms), ttl_ms_(ttl_ms), alarm_(alarms, std::move(wake)) {}

  // The first ms of the wall clock, since the epoch, in which it is not to be handed out any more.
  int64_t expires_at_ms(const storage::Record& record) const;
  bool is_expired(const storage::Record& record) const {
    return expires_at_ms(record) <= alarms_.clock().wall_ms();
  }

  // The first message is this one.
  void wait_for(const storage::Record& record);
  // Looks at it on the next turn.
  void wake_soon() { alarm_.set_after(0); }
  void stop() { alarm_.stop(); }

 private:
  Alarms& alarms_;
  const std::optional<uint64_t> ttl_ms_;
  Alarm alarm_;
};

// Tells when a queue was not used for a time. The time is not stored: it begins anew with a start.
//
// On the shard's thread.
class UnusedTimer {
 public:
  UnusedTimer(Alarms& alarms, uint64_t after_ms, std::function<void()> unused)
      : clock_(alarms.clock()),
        after_ms_(after_ms),
        alarm_(alarms, [this] { check(); }),
        unused_(std::move(unused)) {
    used();
  }

  // It was used just now. Costs a look at the clock.
  void used();
  // It is used from now on, or is not any more.
  void set_in_use(bool in_use);

 private:
  void check();

  const Clock& clock_;
  const uint64_t after_ms_;
  Alarm alarm_;
  const std::function<void()> unused_;
  int64_t used_at_ms_ = 0;
  bool in_use_ = false;
};

}  // namespace sluice::broker
