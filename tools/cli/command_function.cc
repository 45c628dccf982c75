#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string name;
  std::string image;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;
  std::optional<uint64_t> memory_bytes;
  std::optional<uint64_t> timeout_ms;
  std::string input = "-";
  bool follow = false;
};

Json deploy_config(const Options& options) {
  Json config = {{"image_name", std::filesystem::path(options.image).filename().string()},
                 {"args", options.arguments}};
  Json& environment = config["env"] = Json::array();
  for (const auto& [key, value] : options.environment) environment.push_back(key + "=" + value);
  if (options.memory_bytes) config["memory_bytes"] = *options.memory_bytes;
  if (options.timeout_ms) config["timeout_ms"] = *options.timeout_ms;
  return config;
}

Expected<> deploy(const Context& context, const Options& options) {
  auto image = read_input(options.image, kImageBytesMax);
  if (!image) return std::unexpected(image.error());
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const uint64_t image_bytes = image->size();
  auto answer = admin->put_image(api_path({"functions", options.name}), deploy_config(options),
                                 std::move(*image));
  if (!answer) return std::unexpected(answer.error());
  const Json& function = answer->body;
  if (context.json()) {
    print_object(context, function);
    return {};
  }
  print_done(context,
             fmt::format("function '{}' version {} deployed ({}, {})", options.name,
                         cell("", function.value("version", Json())), human_bytes(image_bytes),
                         cell("", function.value("state", Json("state unknown")))),
             {});
  const std::string warning = cell("", function.value("warning", Json("")));
  if (!warning.empty()) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  return {};
}

const std::vector<Column> kColumns = {
    {"NAME", "name"},        {"VERSION", "version"},   {"STATE", "state"},
    {"IMAGE", "image_name"}, {"ARGUMENTS", "args"},    {"SIZE", "image_bytes"},
    {"CALLS", "calls"},      {"FAILURES", "failures"}, {"DEPLOYED", "created_at_ms"},
};

Expected<> list(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get("/api/functions");
  if (!answer) return std::unexpected(answer.error());
  print_list(context, answer->body, kColumns,
             "no functions; 'sluice function deploy NAME --image FILE' makes one");
  return {};
}

Expected<> versions(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"functions", options.name, "versions"}));
  if (!answer) return std::unexpected(answer.error());
  print_list(context, answer->body, kColumns, "no versions");
  return {};
}

Expected<> show(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"functions", options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_object(context, answer->body);
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

Expected<> invoke(const Context& context, const Options& options) {
  auto input = read_input(options.input, kInputBytesMax);
  if (!input) return std::unexpected(input.error());
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->post_bytes(api_path({"functions", options.name, "invoke"}), *input);
  if (!answer) return std::unexpected(answer.error());
  const Json& result = answer->body;
  if (!result.is_object()) return fail(Code::kInternal, "the broker's answer holds no call result");

  if (context.json()) {
    print_object(context, result);
  } else {
    const auto written = write_stdout(base64_decode(result.value("output_base64", "")));
    if (!written) return written;
    if (const auto flushed = flush_stdout(); !flushed) return flushed;
    const std::string log = base64_decode(result.value("log_base64", ""));
    const std::string shown = isatty(STDERR_FILENO) == 1 ? printable(log, true) : log;
    std::fwrite(shown.data(), 1, shown.size(), stderr);
    if (!shown.empty() && shown.back() != '\n') std::fputc('\n', stderr);
  }
  const std::string outcome = result.value("outcome", "");
  if (outcome == "ok") return {};
  const std::string message = result.value("message", "");
  return fail(Code::kInternal, fmt::format("the call of '{}' ended with {}{}{}", options.name,
                                           outcome.empty() ? "no outcome" : outcome,
                                           message.empty() ? "" : ": ", message));
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

void add_deploy_options(CLI::App* command, const std::shared_ptr<Options>& options) {
  command->add_option("--image", options->image, "A static x86-64 Linux program")
      ->required()
      ->check(CLI::ExistingFile)
      ->type_name("FILE");
  command
      ->add_option("--arg", options->arguments,
                   "An argument of the program; may be repeated; write --arg=-x for -x")
      ->allow_extra_args(false)
      ->type_name("A");
  add_parsed_each(command, "--env", options->environment, parse_key_value,
                  "A variable of its environment; may be repeated")
      ->type_name("K=V");
  add_parsed(command, "--memory", options->memory_bytes, parse_size_bytes,
             "How much memory one call may use, such as 64MiB")
      ->type_name("SIZE");
  add_parsed(command, "--timeout", options->timeout_ms, parse_duration_ms,
             "How long one call may take, such as 5s")
      ->type_name("TIME");
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

  add_deploy_options(with_name(add("deploy", "Deploy a program as the next version", deploy)),
                     options);
  add("list", "All functions, the newest version of each", list);
  with_name(add("show", "One function's newest version", show));
  with_name(add("versions", "All versions of one function", versions));
  with_name(add("delete", "Delete a function, all versions", remove));
  CLI::App* command = with_name(add("invoke", "Call a function once and print its result", invoke));
  command->add_option("FILE", options->input, "What the function reads on stdin; - is our stdin")
      ->capture_default_str();
  command = with_name(add("logs", "What calls wrote on stderr, and why calls failed", logs));
  command->add_flag("--follow", options->follow, "Wait for more until interrupted");
}

}  // namespace sluice::cli
