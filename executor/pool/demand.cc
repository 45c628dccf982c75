#include "executor/pool/demand.h"

#include <algorithm>
#include <cmath>

#include "executor/pool/limits.h"

namespace sluice::executor {
namespace {

// The first call is no rate yet: it counts as one within so long.
constexpr double kFirstSeconds = 1;

double with_headroom(double calls) {
  // Where calls come independently of each other, their number at one time varies by the root of
  // its mean: two of that are exceeded seldom.
  return calls + 2 * std::sqrt(calls);
}

}  // namespace

void Demand::update(int64_t now_ns) {
  double seconds = static_cast<double>(now_ns - updated_ns_) / 1e9;
  if (seconds <= 0) return;
  updated_ns_ = now_ns;
  auto arrivals = static_cast<double>(arrivals_);
  for (auto [average, over] : {std::pair{&fast_, kFastRateSeconds}, {&slow_, kSlowRateSeconds}}) {
    double weight = average->base == 0 ? std::max(seconds, kFirstSeconds) : seconds;
    average->add(arrivals, weight, std::exp(-seconds / over));
  }
  double decay = std::exp(-seconds / kServiceSeconds);
  auto ended = static_cast<double>(ended_);
  awake_each_.add(std::max(service_ns_ - asleep_ns_, 0.0) / 1e9, ended, decay);
  asleep_each_.add(asleep_ns_ / 1e9, ended, decay);
  arrivals_ = ended_ = 0;
  service_ns_ = asleep_ns_ = 0;
}

double Demand::per_second() const { return std::max(fast_.value(), slow_.value()); }
double Demand::awake() const { return per_second() * awake_each_.value(); }
double Demand::asleep() const { return per_second() * asleep_each_.value(); }

size_t Demand::target(size_t share, size_t limit) const {
  double running = std::min(with_headroom(awake()), static_cast<double>(share));
  double wanted = std::ceil(running + with_headroom(asleep()));
  return static_cast<size_t>(std::min(wanted, static_cast<double>(limit)));
}

}  // namespace sluice::executor
