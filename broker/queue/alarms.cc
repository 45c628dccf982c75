#include "broker/queue/alarms.h"

#include <algorithm>

#include "broker/queue/limits.h"

namespace sluice::broker {

Alarms::Alarms(uv_loop_t* loop, const Clock& clock)
    : clock_(clock), timer_(loop, [this] { check(); }) {}

void Alarms::check() {
  auto collect = [this](Order& order, int64_t now_ms) {
    while (!order.empty() && order.begin()->first <= now_ms) {
      auto [at_ms, alarm] = *order.begin();
      order.erase(order.begin());
      alarm->order_ = &due_;
      due_.emplace(at_ms, alarm);
    }
  };
  collect(wall_, clock_.wall_ms());
  collect(steady_, clock_.steady_ms());
  // One that is set anew by a callback has to wait for the next time.
  while (!due_.empty()) {
    Alarm* alarm = due_.begin()->second;
    remove(*alarm);
    auto callback = alarm->callback_;
    callback();
  }
  start_timer();
}

void Alarms::add(Alarm& alarm, Order& order, int64_t at_ms) {
  alarm.order_ = &order;
  alarm.at_ms_ = at_ms;
  auto place = order.emplace(at_ms, &alarm).first;
  if (place == order.begin()) start_timer();
}

// The timer may come for nothing; that is cheaper than to start it anew.
void Alarms::remove(Alarm& alarm) {
  if (alarm.order_ == nullptr) return;
  alarm.order_->erase({alarm.at_ms_, &alarm});
  alarm.order_ = nullptr;
}

void Alarms::start_timer() {
  int64_t after_ms = kClockCheckMs;
  if (!wall_.empty()) after_ms = std::min(after_ms, wall_.begin()->first - clock_.wall_ms());
  if (!steady_.empty()) after_ms = std::min(after_ms, steady_.begin()->first - clock_.steady_ms());
  if (wall_.empty() && steady_.empty()) {
    timer_.stop();
  } else {
    timer_.start(static_cast<uint64_t>(std::max<int64_t>(after_ms, 0)));
  }
}

void Alarm::set_at(int64_t wall_ms) {
  if (order_ == &alarms_.wall_ && at_ms_ == wall_ms) return;
  alarms_.remove(*this);
  alarms_.add(*this, alarms_.wall_, wall_ms);
}

void Alarm::set_after(uint64_t ms) {
  alarms_.remove(*this);
  alarms_.add(*this, alarms_.steady_, alarms_.clock_.steady_ms() + static_cast<int64_t>(ms));
}

void Alarm::stop() { alarms_.remove(*this); }

}  // namespace sluice::broker
