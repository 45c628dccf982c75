#include "tools/cli/top_model.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace sluice::cli {
namespace {

const Json kNothing;

const Json& member(const Json& object, const char* name) {
  if (!object.is_object()) return kNothing;
  const auto found = object.find(name);
  return found == object.end() ? kNothing : *found;
}

std::optional<double> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (!value.is_number()) return std::nullopt;
  return value.get<double>();
}

Json or_null(std::optional<double> value) { return value ? Json(*value) : Json(); }

// How much a count has grown. One that is smaller than before began again in between.
std::optional<double> grown(const Json& before, const Json& now, const char* name) {
  const auto then = number(before, name);
  const auto current = number(now, name);
  if (!then || !current) return std::nullopt;
  return *current >= *then ? *current - *then : *current;
}

// The element of the same name, and of the same version where there is one.
const Json& same(const Json& list, const Json& item) {
  if (!list.is_array()) return kNothing;
  for (const Json& other : list) {
    if (member(other, "name") == member(item, "name") &&
        member(other, "version") == member(item, "version")) {
      return other;
    }
  }
  return kNothing;
}

class Figures {
 public:
  Figures(const TopSample& before, const TopSample& now)
      : before_(before),
        now_(now),
        seconds_(static_cast<double>(std::max<int64_t>(now.time_us - before.time_us, 1)) / 1e6) {}

  Json run() const {
    return {{"interval_ms", static_cast<uint64_t>(seconds_ * 1000)},
            {"broker", broker()},
            {"executor", executor()},
            {"functions", each(before_.functions, now_.functions, {"calls_per_s", "sandboxes"},
                               &Figures::function)},
            {"subscriptions", each(before_.subscriptions, now_.subscriptions,
                                   {"calls_per_s", "in_flight"}, &Figures::subscription)},
            {"queues", each(before_.queues, now_.queues, {"ready", "unacked"}, &Figures::queue)}};
  }

 private:
  using Describe = Json (Figures::*)(const Json& before, const Json& now) const;

  Json each(const Json& before, const Json& now, std::pair<const char*, const char*> order,
            Describe describe) const {
    Json list = Json::array();
    if (!now.is_array()) return list;
    for (const Json& item : now) {
      if (item.is_object()) list.push_back((this->*describe)(same(before, item), item));
    }
    const auto rank = [&](const Json& item) {
      return std::pair(number(item, order.first).value_or(0),
                       number(item, order.second).value_or(0));
    };
    std::stable_sort(list.begin(), list.end(),
                     [&](const Json& a, const Json& b) { return rank(a) > rank(b); });
    return list;
  }

  Json rate(const Json& before, const Json& now, const char* name) const {
    const auto growth = grown(before, now, name);
    return growth ? Json(*growth / seconds_) : Json();
  }

  Json broker() const {
    const Json& totals = member(now_.overview, "queue_totals");
    const Json& stats = member(now_.overview, "message_stats");
    const Json& stats_before = member(before_.overview, "message_stats");
    return {{"version", member(now_.overview, "product_version")},
            {"uptime_ms", member(now_.overview, "uptime_ms")},
            {"connections", member(member(now_.overview, "object_totals"), "connections")},
            {"ready", member(totals, "messages_ready")},
            {"unacked", member(totals, "messages_unacknowledged")},
            {"publish_per_s", rate(stats_before, stats, "publish")},
            {"deliver_per_s", rate(stats_before, stats, "deliver_get")},
            {"ack_per_s", rate(stats_before, stats, "ack")}};
  }

  Json executor() const {
    const Json& executor = member(now_.overview, "executor");
    Json figures = Json::object();
    for (const char* name : {"state", "sandbox", "backend", "reason", "workers", "calls",
                             "restarts", "memory_bytes", "memory_budget_bytes"}) {
      figures[name] = member(executor, name);
    }
    return figures;
  }

  // A queue's length goes both ways.
  Json queue(const Json& before, const Json& now) const {
    const auto then = number(before, "messages_ready");
    const auto current = number(now, "messages_ready");
    const Json& stats = member(now, "message_stats");
    const Json& stats_before = member(before, "message_stats");
    return {{"name", member(now, "name")},
            {"ready", member(now, "messages_ready")},
            {"unacked", member(now, "messages_unacknowledged")},
            {"consumers", member(now, "consumers")},
            {"ready_per_s", then && current ? Json((*current - *then) / seconds_) : Json()},
            {"publish_per_s", rate(stats_before, stats, "publish")},
            {"ack_per_s", rate(stats_before, stats, "ack")}};
  }

  Json subscription(const Json& before, const Json& now) const {
    return {{"name", member(now, "name")},
            {"queue", member(now, "queue")},
            {"function", member(now, "function")},
            {"state", member(now, "state")},
            {"in_flight", member(now, "in_flight")},
            {"waiting_retry", member(now, "waiting_retry")},
            {"calls_per_s", rate(before, now, "calls")},
            {"failed", member(now, "failed")},
            {"failed_per_s", rate(before, now, "failed")}};
  }

  Json function(const Json& before, const Json& now) const {
    const Json& stats = member(now, "stats");
    const Json& stats_before = member(before, "stats");
    const auto calls = grown(stats_before, stats, "calls");
    const auto a_call = [&](const char* name) -> std::optional<double> {
      const auto sum = grown(stats_before, stats, name);
      if (!calls || !sum || *calls <= 0) return std::nullopt;
      return *sum / *calls;
    };
    return {{"name", member(now, "name")},
            {"version", member(now, "version")},
            {"state", member(now, "state")},
            {"calls_per_s", rate(before, now, "calls")},
            {"failures_per_s", rate(before, now, "failures")},
            {"running", member(stats, "running")},
            {"sandboxes", member(stats, "sandboxes")},
            {"target", member(stats, "target")},
            {"queued", member(stats, "queued")},
            {"warm_hit_rate", or_null(a_call("warm_hits"))},
            {"run_us", or_null(a_call("run_us"))},
            {"pages_per_call", or_null(a_call("dirty_pages"))},
            {"exits_per_call", or_null(a_call("exits"))},
            {"memory_bytes", member(stats, "memory_bytes")}};
  }

  const TopSample& before_;
  const TopSample& now_;
  const double seconds_;
};

}  // namespace

Json top_figures(const TopSample& before, const TopSample& now) {
  return Figures(before, now).run();
}

}  // namespace sluice::cli
