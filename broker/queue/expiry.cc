#include "broker/queue/expiry.h"

#include <algorithm>

namespace sluice::broker {

int64_t Expiry::expires_at_ms(const storage::Record& record) const {
  int64_t at_ms = kNever;
  if (ttl_ms_) {
    int64_t from_ms = record.ready_at_ms() != 0 ? record.ready_at_ms() : record.published_at_ms();
    auto room_ms = static_cast<uint64_t>(kNever - from_ms);
    at_ms = *ttl_ms_ < room_ms ? from_ms + static_cast<int64_t>(*ttl_ms_) : kNever;
  }
  if (record.expires_at_ms() != 0) at_ms = std::min(at_ms, record.expires_at_ms());
  return at_ms;
}

void Expiry::wait_for(const storage::Record& record) {
  if (int64_t at_ms = expires_at_ms(record); at_ms != kNever) {
    alarm_.set_at(at_ms);
  } else {
    alarm_.stop();
  }
}

void UnusedTimer::used() {
  used_at_ms_ = clock_.steady_ms();
  if (!in_use_ && !alarm_.is_set()) alarm_.set_after(after_ms_);
}

void UnusedTimer::set_in_use(bool in_use) {
  in_use_ = in_use;
  if (in_use_) {
    alarm_.stop();
  } else {
    used();
  }
}

// Uses since then have not moved the alarm.
void UnusedTimer::check() {
  auto idle_ms = static_cast<uint64_t>(clock_.steady_ms() - used_at_ms_);
  if (idle_ms < after_ms_) {
    alarm_.set_after(after_ms_ - idle_ms);
  } else {
    auto unused = unused_;  // may end this
    unused();
  }
}

}  // namespace sluice::broker
