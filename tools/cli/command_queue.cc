#include <vector>

#include <fmt/format.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

constexpr size_t kPreviewCharacters = 60;

struct Options {
  std::string name;
  std::vector<std::pair<std::string, std::string>> arguments;
  bool transient = false;
  bool auto_delete = false;
  bool if_empty = false;
  bool if_unused = false;
  uint64_t count = 1;
};

Expected<> declare(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const Json body = {{"durable", !options.transient},
                     {"auto_delete", options.auto_delete},
                     {"arguments", arguments_json(options.arguments)}};
  auto answer = admin->put(api_path({"queues", kVhost, options.name}), body);
  if (!answer) return std::unexpected(answer.error());
  const bool created = answer->status == 201;
  print_done(context,
             fmt::format("queue '{}' {}", options.name, created ? "declared" : "was there already"),
             {{"name", options.name}, {"created", created}});
  return {};
}

Expected<> list(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"queues", kVhost}));
  if (!answer) return std::unexpected(answer.error());
  print_list(context, answer->body,
             {{"NAME", "name"},
              {"READY", "messages_ready"},
              {"UNACKED", "messages_unacknowledged"},
              {"CONSUMERS", "consumers"},
              {"DURABLE", "durable"},
              {"STATE", "state"},
              {"ARGUMENTS", "arguments"}},
             "no queues; 'sluice queue declare NAME' makes one");
  return {};
}

Expected<> show(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"queues", kVhost, options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_object(context, answer->body);
  return {};
}

Expected<> purge(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->del(api_path({"queues", kVhost, options.name, "contents"}));
  if (!answer) return std::unexpected(answer.error());
  const uint64_t purged = answer->body.value("purged", uint64_t{0});
  print_done(context,
             fmt::format("{} removed from '{}'", counted(purged, "ready message"), options.name),
             {{"name", options.name}, {"purged", purged}});
  return {};
}

Expected<> remove(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  std::string path = api_path({"queues", kVhost, options.name});
  if (options.if_empty) path += "?if-empty=true";
  if (options.if_unused) path += options.if_empty ? "&if-unused=true" : "?if-unused=true";
  auto answer = admin->del(path);
  if (!answer) return std::unexpected(answer.error());
  print_done(context, fmt::format("queue '{}' deleted", options.name),
             {{"name", options.name}, {"deleted", true}});
  return {};
}

// The payload's beginning on one line; a binary one is shown by its size alone.
std::string preview(const Json& message) {
  if (message.value("payload_encoding", "") != "string") return "(binary)";
  std::string text = printable(message.value("payload", ""));
  if (text.size() <= kPreviewCharacters) return text;
  size_t cut = kPreviewCharacters - 3;
  while (cut > 0 && (text[cut] & 0xC0) == 0x80) --cut;  // not inside a character
  return text.substr(0, cut) + "...";
}

Expected<> peek(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"queues", kVhost, options.name, "messages"}) +
                           fmt::format("?count={}", options.count));
  if (!answer) return std::unexpected(answer.error());
  Json& messages = answer->body;
  if (!context.json() && messages.is_array()) {
    for (Json& message : messages) message["payload"] = preview(message);
  }
  print_list(context, messages,
             {{"EXCHANGE", "exchange"},
              {"ROUTING KEY", "routing_key"},
              {"REDELIVERED", "redelivered"},
              {"HEADERS", "properties/headers"},
              {"SIZE", "payload_bytes"},
              {"PAYLOAD", "payload"}},
             fmt::format("no ready messages in '{}'", options.name));
  return {};
}

}  // namespace

void add_queue_commands(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("queue", "Declare, inspect, empty and delete queues");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* description, auto run) {
    return add_command(*group, context, name, description, options, run);
  };
  const auto with_name = [&](CLI::App* command) {
    command->add_option("NAME", options->name, "The queue")->required();
    return command;
  };

  CLI::App* command = with_name(add("declare", "Make a durable queue", declare));
  add_parsed_each(command, "--arg", options->arguments, parse_key_value,
                  "A queue argument, such as x-max-length=1000; may be repeated")
      ->type_name("K=V");
  command->add_flag("--transient", options->transient, "The queue does not survive a restart");
  command->add_flag("--auto-delete", options->auto_delete,
                    "The queue goes when its last consumer does");
  add("list", "All queues", list);
  with_name(add("show", "One queue", show));
  with_name(add("purge", "Remove a queue's ready messages", purge));
  command = with_name(add("delete", "Delete a queue and what is in it", remove));
  command->add_flag("--if-empty", options->if_empty, "Only where it has no messages");
  command->add_flag("--if-unused", options->if_unused, "Only where it has no consumers");
  command = with_name(add("peek", "Look at the oldest ready messages; they stay", peek));
  command->add_option("--count", options->count, "How many")
      ->check(CLI::Range(uint64_t{1}, uint64_t{10'000}))
      ->capture_default_str();
}

}  // namespace sluice::cli
