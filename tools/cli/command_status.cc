#include <cstdio>

#include <fmt/format.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Options {};

uint64_t figure(const Json& object, const char* group, const char* name) {
  const auto found = object.find(group);
  return found == object.end() ? 0 : found->value(name, uint64_t{0});
}

std::string listeners(const Json& overview) {
  std::string text;
  for (const Json& listener : overview.value("listeners", Json::array())) {
    text += fmt::format(
        "{}{} {}:{}", text.empty() ? "" : ", ", cell("", listener.value("protocol", Json())),
        cell("", listener.value("ip_address", Json())), cell("", listener.value("port", Json())));
  }
  return text;
}

bool is_process_sandbox(const Json& overview) {
  const auto executor = overview.find("executor");
  return executor != overview.end() && executor->value("sandbox", "") == "process";
}

std::string memory(const Json& executor) {
  const uint64_t budget = executor.value("memory_budget_bytes", uint64_t{0});
  std::string text = human_bytes(executor.value("memory_bytes", uint64_t{0}));
  return budget == 0 ? text : text + " of " + human_bytes(budget);
}

std::string executor(const Json& overview) {
  const Json executor = overview.value("executor", Json::object());
  std::string text = cell("", executor.value("state", Json()));
  const std::string backend = cell("", executor.value("backend", Json()));
  const std::string reason = cell("", executor.value("reason", Json()));
  if (backend != "-" && !backend.empty()) text += ", " + backend;
  if (is_process_sandbox(overview)) {
    text += ", NOT KVM: FUNCTIONS RUN AS JAILED PROCESSES ON THE HOST'S KERNEL";
  }
  text += ", " + counted(executor.value("workers", uint64_t{0}), "worker");
  text += ", " + counted(executor.value("calls", uint64_t{0}), "call");
  text += ", " + counted(executor.value("restarts", uint64_t{0}), "restart");
  if (executor.contains("memory_bytes")) text += ", memory " + memory(executor);
  if (reason != "-" && !reason.empty()) text += ": " + reason;
  return text;
}

std::string storage(const Json& overview) {
  const Json storage = overview.value("storage", Json::object());
  std::string text = "sync " + cell("", storage.value("sync", Json()));
  if (storage.contains("sync_interval_ms")) {
    text += ", every " + human_duration_ms(figure(overview, "storage", "sync_interval_ms"));
  }
  text +=
      fmt::format(", {} free on disk", human_bytes(figure(overview, "storage", "disk_free_bytes")));
  if (storage.value("disk_alarm", false)) {
    text += fmt::format(": less than {}, PUBLISHERS ARE BLOCKED",
                        human_bytes(figure(overview, "storage", "disk_free_min_bytes")));
  }
  return text;
}

std::string messages(const Json& overview) {
  const auto total = [&](const char* name) { return figure(overview, "queue_totals", name); };
  return fmt::format("{} in {}: {} ready, {} unacknowledged", total("messages"),
                     counted(figure(overview, "object_totals", "queues"), "queue"),
                     total("messages_ready"), total("messages_unacknowledged"));
}

std::string since_start(const Json& overview) {
  const auto total = [&](const char* name) { return figure(overview, "message_stats", name); };
  return fmt::format(
      "{} published, {} delivered, {} acknowledged, {} redelivered, {} dead-lettered, "
      "{} unroutable",
      total("publish"), total("deliver_get"), total("ack"), total("redeliver"),
      total("dead_letter"), total("return_unroutable") + total("drop_unroutable"));
}

Expected<> status(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get("/api/overview");
  if (!answer) return std::unexpected(answer.error());
  const Json& overview = answer->body;
  if (context.json() || !overview.is_object()) {
    print_object(context, overview);
    return {};
  }
  const auto objects = [&](const char* name) { return figure(overview, "object_totals", name); };
  const Json summary = {
      {"broker", fmt::format("{} {}, up {}", overview.value("product_name", "Sluice"),
                             overview.value("product_version", "?"),
                             human_duration_ms(overview.value("uptime_ms", uint64_t{0})))},
      {"listens", listeners(overview)},
      {"executor", executor(overview)},
      {"storage", storage(overview)},
      {"clients", fmt::format("{}, {}, {}", counted(objects("connections"), "connection"),
                              counted(objects("channels"), "channel"),
                              counted(objects("consumers"), "consumer"))},
      {"messages", messages(overview)},
      {"since start", since_start(overview)},
      {"functions", overview.value("functions", Json())},
      {"subscriptions", overview.value("subscriptions", Json())},
  };
  print_object(context, summary);
  if (is_process_sandbox(overview)) {
    std::fprintf(
        stderr,
        "warning: functions run as jailed processes, not in KVM sandboxes: what is between "
        "them and\nthis machine is its kernel. sluiced was started with --sandbox process\n");
  }
  return {};
}

}  // namespace

void add_status_command(CLI::App& app, Context& context) {
  add_command(app, context, "status", "The broker at a glance", std::make_shared<Options>(),
              status);
}

}  // namespace sluice::cli
