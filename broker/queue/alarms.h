#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <utility>

#include <uv.h>

#include "broker/net/handles.h"
#include "broker/queue/clock.h"

namespace sluice::broker {

class Alarm;

// A shard's alarms, with one timer for all of them. The wall clock may jump while the timer runs,
// so as long as any alarm is set it is looked at every kClockCheckMs at the latest.
//
// On the shard's thread.
class Alarms {
 public:
  Alarms(uv_loop_t* loop, const Clock& clock);

  const Clock& clock() const { return clock_; }
  // Calls all that are due. The timer does; tests do after they moved their clock.
  void check();

 private:
  friend class Alarm;
  using Order = std::set<std::pair<int64_t, Alarm*>>;  // by time in ms

  void add(Alarm& alarm, Order& order, int64_t at_ms);
  void remove(Alarm& alarm);
  void start_timer();

  const Clock& clock_;
  Order wall_;
  Order steady_;
  Order due_;  // being called
  net::Timer timer_;
};

// Calls back once when its time has come. May be destroyed in its own callback.
class Alarm {
 public:
  Alarm(Alarms& alarms, std::function<void()> callback)
      : alarms_(alarms), callback_(std::move(callback)) {}
  ~Alarm() { stop(); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // Sets it, or sets it anew: to a time of the wall clock, which follows the clock where that
  // jumps; or so much later, whatever the clock does. Never calls back at once.
  void set_at(int64_t wall_ms);
  void set_after(uint64_t ms);
  void stop();
  bool is_set() const { return order_ != nullptr; }

 private:
  friend class Alarms;
  Alarms& alarms_;
  const std::function<void()> callback_;
  Alarms::Order* order_ = nullptr;  // in which it is, if it is set
  int64_t at_ms_ = 0;
};

}  // namespace sluice::broker
