// top_lines() of top_model.h.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tools/cli/text.h"
#include "tools/cli/top_model.h"

namespace sluice::cli {
namespace {

enum class As { kText, kCount, kRate, kChange, kShare, kDuration, kMean, kBytes };

struct Field {
  const char* title;
  const char* name;
  As as;
};

const Json& member(const Json& object, const char* name) {
  static const Json kNothing;
  if (!object.is_object()) return kNothing;
  const auto found = object.find(name);
  return found == object.end() ? kNothing : *found;
}

std::string decimal(double value) {
  return value < 99.95 && value > -99.95 ? fmt::format("{:.1f}", value)
                                         : fmt::format("{:.0f}", value);
}

std::string shown(const Json& value, As as) {
  if (as == As::kText) {
    return value.is_string()   ? printable(value.get_ref<const std::string&>())
           : value.is_number() ? value.dump()
                               : "-";
  }
  if (!value.is_number()) return "-";
  const double number = value.get<double>();
  const auto whole = [&] { return static_cast<uint64_t>(std::clamp(number, 0.0, 1e18)); };
  switch (as) {
    case As::kCount:
      return fmt::format("{:.0f}", number);
    case As::kChange:
      return number > 0 ? "+" + decimal(number) : decimal(number);
    case As::kShare:
      return fmt::format("{:.1f}%", 100 * number);
    case As::kDuration:
      return human_duration_us(whole());
    case As::kBytes:
      return human_bytes(whole());
    default:
      return decimal(number);
  }
}

constexpr std::array kFunctionFields = {
    Field{"FUNCTION", "name", As::kText},
    Field{"VERSION", "version", As::kText},
    Field{"CALLS/S", "calls_per_s", As::kRate},
    Field{"FAILED/S", "failures_per_s", As::kRate},
    Field{"RUNNING", "running", As::kCount},
    Field{"WARM", "sandboxes", As::kCount},
    Field{"TARGET", "target", As::kCount},
    Field{"QUEUED", "queued", As::kCount},
    Field{"WARM HITS", "warm_hit_rate", As::kShare},
    Field{"RUN TIME", "run_us", As::kDuration},
    Field{"EXITS", "exits_per_call", As::kMean},
    Field{"PAGES", "pages_per_call", As::kMean},
    Field{"MEMORY", "memory_bytes", As::kBytes},
};
constexpr std::array kSubscriptionFields = {
    Field{"SUBSCRIPTION", "name", As::kText},    Field{"QUEUE", "queue", As::kText},
    Field{"FUNCTION", "function", As::kText},    Field{"STATE", "state", As::kText},
    Field{"IN FLIGHT", "in_flight", As::kCount}, Field{"RETRYING", "waiting_retry", As::kCount},
    Field{"CALLS/S", "calls_per_s", As::kRate},  Field{"FAILED/S", "failed_per_s", As::kRate},
    Field{"FAILED", "failed", As::kCount},
};
constexpr std::array kQueueFields = {
    Field{"QUEUE", "name", As::kText},
    Field{"READY", "ready", As::kCount},
    Field{"UNACKED", "unacked", As::kCount},
    Field{"CONSUMERS", "consumers", As::kCount},
    Field{"READY/S", "ready_per_s", As::kChange},
    Field{"PUBLISHED/S", "publish_per_s", As::kRate},
    Field{"ACKED/S", "ack_per_s", As::kRate},
};

bool said_by_any(const Json& list, const char* name) {
  return std::any_of(list.begin(), list.end(),
                     [&](const Json& item) { return !member(item, name).is_null(); });
}

// The first `rows` of a list as a table, and how many more there are.
template <size_t N>
std::string table(const Json& list, const std::array<Field, N>& fields, size_t rows) {
  std::vector<Field> shown_fields;
  for (const Field& field : fields) {
    // What this broker never says takes no room.
    if (list.empty() || said_by_any(list, field.name)) shown_fields.push_back(field);
  }
  std::vector<std::string> header;
  for (const Field& field : shown_fields) header.emplace_back(field.title);
  std::vector<std::vector<std::string>> cells;
  const size_t whole = rows >= list.size() ? list.size() : std::max<size_t>(rows, 1) - 1;
  for (size_t i = 0; i < whole; ++i) {
    std::vector<std::string>& row = cells.emplace_back();
    for (const Field& field : shown_fields)
      row.push_back(shown(member(list[i], field.name), field.as));
  }
  std::string text = align(header, cells);
  if (whole < list.size()) text += fmt::format("and {} more\n", list.size() - whole);
  return text;
}

std::string executor_line(const Json& executor) {
  const auto text = [&](const char* name) { return shown(member(executor, name), As::kText); };
  std::string line = "executor  " + text("state");
  if (member(executor, "sandbox") == "process") {
    line += ", JAILED PROCESSES INSTEAD OF KVM SANDBOXES";
  } else if (const std::string backend = text("backend"); backend != "-" && !backend.empty()) {
    line += ", " + backend;
  }
  line += fmt::format(", {} workers", shown(member(executor, "workers"), As::kCount));
  const Json& used = member(executor, "memory_bytes");
  const Json& budget = member(executor, "memory_budget_bytes");
  if (used.is_number()) line += ", memory " + shown(used, As::kBytes);
  if (used.is_number() && budget.is_number() && budget.get<double>() > 0) {
    line += fmt::format(" of {} ({:.0f}%)", shown(budget, As::kBytes),
                        100 * used.get<double>() / budget.get<double>());
  }
  if (const std::string reason = text("reason"); reason != "-" && !reason.empty()) {
    line += ": " + reason;
  }
  return line;
}

std::string broker_lines(const Json& broker) {
  const auto count = [&](const char* name) { return shown(member(broker, name), As::kCount); };
  const auto rate = [&](const char* name) { return shown(member(broker, name), As::kRate); };
  const Json& uptime = member(broker, "uptime_ms");
  return fmt::format(
      "broker    Sluice {}, up {}, connections: {}\n"
      "messages  {} ready, {} unacknowledged; a second {} published, {} delivered, {} "
      "acknowledged\n",
      shown(member(broker, "version"), As::kText),
      uptime.is_number_unsigned() ? human_duration_ms(uptime.get<uint64_t>()) : "-",
      count("connections"), count("ready"), count("unacked"), rate("publish_per_s"),
      rate("deliver_per_s"), rate("ack_per_s"));
}

// How many rows each list gets: one after the other until the room or the lists are at their end.
std::array<size_t, 3> shares(const std::array<size_t, 3>& sizes, size_t room) {
  std::array<size_t, 3> granted = {0, 0, 0};
  for (bool more = true; more && room > 0;) {
    more = false;
    for (size_t i = 0; i < sizes.size() && room > 0; ++i) {
      if (granted[i] >= sizes[i]) continue;
      ++granted[i];
      --room;
      more = true;
    }
  }
  return granted;
}

// The first `columns` characters.
std::string_view cut(std::string_view line, size_t columns) {
  size_t at = 0;
  for (size_t seen = 0; at < line.size(); ++at) {
    const bool starts = (static_cast<unsigned char>(line[at]) & 0xC0) != 0x80;
    if (starts && seen++ == columns) break;
  }
  return line.substr(0, at);
}

}  // namespace

std::vector<std::string> top_lines(const Json& figures, size_t rows, size_t columns) {
  const auto list = [&](const char* name) {
    const Json& value = member(figures, name);
    return value.is_array() ? value : Json::array();
  };
  const Json functions = list("functions");
  const Json subscriptions = list("subscriptions");
  const Json queues = list("queues");
  const std::array sizes = {functions.size(), subscriptions.size(), queues.size()};
  constexpr size_t kFixedLines = 3 + 3 * 2;  // the head; a title and an empty line each
  const auto granted =
      rows == 0 ? sizes : shares(sizes, rows > kFixedLines ? rows - kFixedLines : 0);

  std::string text =
      broker_lines(member(figures, "broker")) + executor_line(member(figures, "executor")) + "\n";
  text += "\n" + table(functions, kFunctionFields, granted[0]);
  text += "\n" + table(subscriptions, kSubscriptionFields, granted[1]);
  text += "\n" + table(queues, kQueueFields, granted[2]);

  std::vector<std::string> lines;
  for (std::string_view rest = text; !rest.empty() && (rows == 0 || lines.size() < rows);) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    lines.emplace_back(cut(rest.substr(0, end), columns));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return lines;
}

}  // namespace sluice::cli
