#include <algorithm>
#include <cstdio>
#include <vector>

#include <fmt/format.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/function_commands.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string name;
  bool follow = false;
};

const std::vector<Column> kColumns = {
    {"NAME", "name"},        {"VERSION", "version"},   {"STATE", "state"},
    {"IMAGE", "image_name"}, {"ARGUMENTS", "args"},    {"SIZE", "size_bytes"},
    {"CALLS", "calls"},      {"FAILURES", "failures"}, {"DEPLOYED", "created_at_ms"},
};

// A function's size is that of all that was deployed: its image, its root file system.
void print_functions(const Context& context, Json functions, std::string_view none) {
  const auto bytes = [](const Json& function, const char* name) {
    const auto found = function.find(name);
    return found != function.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
  };
  if (!context.json() && functions.is_array()) {
    for (Json& function : functions) {
      if (!function.is_object()) continue;
      function["size_bytes"] = bytes(function, "image_bytes") + bytes(function, "rootfs_bytes");
    }
  }
  print_list(context, functions, kColumns, none);
}

Expected<> list(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get("/api/functions");
  if (!answer) return std::unexpected(answer.error());
  print_functions(context, answer->body,
                  "no functions; 'sluice function deploy NAME --image FILE' makes one");
  return {};
}

Expected<> versions(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"functions", options.name, "versions"}));
  if (!answer) return std::unexpected(answer.error());
  print_functions(context, answer->body, "no versions");
  return {};
}

Expected<> show(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"functions", options.name}));
  if (!answer) return std::unexpected(answer.error());
  if (context.json() || !answer->body.is_object()) {
    print_object(context, answer->body);
  } else {
    print_function(answer->body);
  }
  return {};
}

Expected<> remove(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->del(api_path({"functions", options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_done(context, fmt::format("function '{}' deleted, with all its versions", options.name),
             {{"name", options.name}, {"deleted", true}});
  return {};
}

void print_log_entry(const Context& context, const Json& entry) {
  if (context.json()) return print_json_line(entry);
  const std::string message = cell("", entry.value("message", Json("")));
  std::string text = fmt::format(
      "{}  version {}  {}  attempt {}  {}{}{}\n", cell("time_ms", entry.value("time_ms", Json())),
      cell("", entry.value("version", Json())), cell("", entry.value("source", Json())),
      cell("", entry.value("attempt", Json())), cell("", entry.value("outcome", Json())),
      message.empty() ? "" : ": ", message);
  const std::string log = printable(entry.value("log", ""), true);
  for (size_t at = 0; at < log.size();) {
    const size_t end = std::min(log.find('\n', at), log.size());
    text += "    " + log.substr(at, end - at) + "\n";
    at = end + 1;
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
}

Expected<> logs(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const std::string path = api_path({"functions", options.name, "logs"});
  uint64_t last = 0;
  int wait_ms = 0;  // the first time, what is there already
  do {
    auto answer = admin->get(fmt::format("{}?after={}&wait_ms={}", path, last, wait_ms));
    if (!answer) return std::unexpected(answer.error());
    if (!answer->body.is_array()) {
      return fail(Code::kInternal, "the broker's answer holds no log entries");
    }
    for (const Json& entry : answer->body) {
      print_log_entry(context, entry);
      last = std::max(last, entry.value("id", uint64_t{0}));
    }
    if (const auto flushed = flush_stdout(); !flushed) return flushed;
    wait_ms = kLogWaitMs;
  } while (options.follow);
  if (last == 0 && !context.json()) {
    std::fprintf(stderr, "no call of '%s' wrote a log or failed\n", options.name.c_str());
  }
  return {};
}

}  // namespace

void add_function_commands(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("function", "Deploy, call and watch functions");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* description, auto run) {
    return add_command(*group, context, name, description, options, run);
  };
  const auto with_name = [&](CLI::App* command) {
    command->add_option("NAME", options->name, "The function")->required();
    return command;
  };

  add_deploy_command(*group, context);
  add("list", "All functions, the newest version of each", list);
  with_name(add("show", "One function's newest version", show));
  with_name(add("versions", "All versions of one function", versions));
  with_name(add("delete", "Delete a function, all versions", remove));
  add_invoke_command(*group, context);
  CLI::App* command =
      with_name(add("logs", "What calls wrote on stderr, and why calls failed", logs));
  command->add_flag("--follow", options->follow, "Wait for more until interrupted");
}

}  // namespace sluice::cli
