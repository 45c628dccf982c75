#include <vector>

#include <fmt/format.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/output.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string name;
  std::string type;
  bool transient = false;
  bool auto_delete = false;
};

struct BindingOptions {
  std::string source;
  std::string destination;
  std::string key;
  std::vector<std::pair<std::string, std::string>> arguments;
};

Expected<> declare(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const Json body = {{"type", options.type},
                     {"durable", !options.transient},
                     {"auto_delete", options.auto_delete},
                     {"internal", false},
                     {"arguments", Json::object()}};
  auto answer = admin->put(api_path({"exchanges", kVhost, options.name}), body);
  if (!answer) return std::unexpected(answer.error());
  const bool created = answer->status == 201;
  print_done(
      context,
      fmt::format("exchange '{}' {}", options.name, created ? "declared" : "was there already"),
      {{"name", options.name}, {"created", created}});
  return {};
}

Expected<> list(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"exchanges", kVhost}));
  if (!answer) return std::unexpected(answer.error());
  print_list(context, answer->body,
             {{"NAME", "name"},
              {"TYPE", "type"},
              {"DURABLE", "durable"},
              {"AUTO-DELETE", "auto_delete"},
              {"INTERNAL", "internal"},
              {"ARGUMENTS", "arguments"}},
             "no exchanges");
  return {};
}

Expected<> remove(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->del(api_path({"exchanges", kVhost, options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_done(context, fmt::format("exchange '{}' deleted", options.name),
             {{"name", options.name}, {"deleted", true}});
  return {};
}

Json binding_json(const BindingOptions& options) {
  return {{"source", options.source},
          {"destination", options.destination},
          {"routing_key", options.key},
          {"arguments", arguments_json(options.arguments)}};
}

std::string binding_path(const BindingOptions& options) {
  return api_path({"bindings", kVhost, "e", options.source, "q", options.destination});
}

Expected<> bind(const Context& context, const BindingOptions& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const Json body = {{"routing_key", options.key},
                     {"arguments", arguments_json(options.arguments)}};
  auto answer = admin->post(binding_path(options), body);
  if (!answer) return std::unexpected(answer.error());
  print_done(context,
             fmt::format("queue '{}' is bound to exchange '{}' with the key '{}'",
                         options.destination, options.source, options.key),
             binding_json(options));
  return {};
}

Expected<> unbind(const Context& context, const BindingOptions& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->del(binding_path(options) + "?routing_key=" + percent_encode(options.key));
  if (!answer) return std::unexpected(answer.error());
  print_done(context,
             fmt::format("queue '{}' is no longer bound to exchange '{}' with the key '{}'",
                         options.destination, options.source, options.key),
             binding_json(options));
  return {};
}

void add_binding_commands(CLI::App& app, Context& context) {
  const auto options = std::make_shared<BindingOptions>();
  const auto add = [&](const char* name, const char* description, auto run) {
    CLI::App* command = add_command(app, context, name, description, options, run);
    command->add_option("SOURCE", options->source, "The exchange")->required();
    command->add_option("DESTINATION", options->destination, "The queue")->required();
    command->add_option("--key", options->key, "The binding's routing key; empty by default");
    return command;
  };
  CLI::App* command = add("bind", "Let an exchange route to a queue", bind);
  add_parsed_each(command, "--arg", options->arguments, parse_key_value,
                  "A binding argument, such as x-match=all; may be repeated")
      ->type_name("K=V");
  add("unbind", "Take back a binding", unbind);
}

}  // namespace

void add_exchange_commands(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("exchange", "Declare, list and delete exchanges");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* description, auto run) {
    return add_command(*group, context, name, description, options, run);
  };

  CLI::App* command = add("declare", "Make a durable exchange", declare);
  command->add_option("NAME", options->name, "The exchange")->required();
  command->add_option("--type", options->type, "direct, fanout, topic or headers")
      ->required()
      ->check(CLI::IsMember({"direct", "fanout", "topic", "headers"}))
      ->type_name("TYPE");
  command->add_flag("--transient", options->transient, "The exchange does not survive a restart");
  command->add_flag("--auto-delete", options->auto_delete,
                    "The exchange goes when its last binding does");
  add("list", "All exchanges", list);
  command = add("delete", "Delete an exchange and its bindings", remove);
  command->add_option("NAME", options->name, "The exchange")->required();

  add_binding_commands(app, context);
}

}  // namespace sluice::cli
