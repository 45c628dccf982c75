#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/function_commands.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"
#include "tools/cli/write_file.h"

namespace sluice::cli {
namespace {

// A state or a message is shown whole up to here.
constexpr size_t kShownBytesMax = 1024;

struct Options {
  std::string name;
  std::string input = "-";
  std::string state_file;
  std::string state_out;
  std::optional<std::string> routing_key;
};

Expected<Admin::Answer> call(Admin& admin, const Options& options) {
  auto input = read_input(options.input, kInputBytesMax);
  if (!input) return std::unexpected(input.error());
  const std::string path = api_path({"functions", options.name, "invoke"});
  if (options.state_file.empty() && !options.routing_key) return admin.post_bytes(path, *input);

  std::vector<Admin::Part> parts = {{"input", std::move(*input)}};
  if (!options.state_file.empty()) {
    auto state = read_input(options.state_file, kInputBytesMax);
    if (!state) return std::unexpected(state.error());
    parts.push_back({"state", std::move(*state)});
  }
  if (options.routing_key) parts.push_back({"routing_key", *options.routing_key});
  return admin.post_form(path, parts, [](uint64_t, uint64_t) {});
}

// Bytes for a person: text as it is, what is not as its size.
std::string shown(const std::string& bytes) {
  if (!is_utf8(bytes)) return human_bytes(bytes.size()) + " that are not text";
  if (bytes.size() <= kShownBytesMax) return printable(bytes);
  return printable(bytes.substr(0, kShownBytesMax)) + "... (" + human_bytes(bytes.size()) + ")";
}

const Json& member(const Json& object, const char* name) {
  static const Json kNothing;
  if (!object.is_object()) return kNothing;
  const auto found = object.find(name);
  return found == object.end() ? kNothing : *found;
}

std::string text_of(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_string() ? value.get<std::string>() : "";
}

std::string describe_output(const Json& output) {
  const std::string exchange = text_of(output, "exchange");
  std::string text = fmt::format("output to {}/{}", printable(exchange),
                                 printable(text_of(output, "routing_key")));
  if (const Json& delay = member(output, "delay_ms"); delay.is_number() && delay != 0) {
    text += ", not before " + cell("delay_ms", delay);
  }
  if (const Json& headers = member(output, "headers"); headers.is_object() && !headers.empty()) {
    text += fmt::format(" ({})", cell("", headers));
  }
  return text + ": " + shown(base64_decode(text_of(output, "payload_base64")));
}

// What a function answered beside its result, a line each.
std::string describe_answer(const Json& answer, bool with_state) {
  std::string text;
  const auto line = [&](const std::string& words) { text += words + "\n"; };
  const auto each = [&](const char* name, const auto& describe) {
    const Json& list = member(answer, name);
    if (!list.is_array()) return;
    for (const Json& item : list) line(describe(item));
  };
  each("logs", [](const Json& log) {
    return fmt::format("{}: {}", printable(text_of(log, "level")),
                       printable(text_of(log, "text"), true));
  });
  if (const std::string failure = text_of(answer, "failure"); !failure.empty()) {
    line("the call failed: " + printable(failure));
  }
  each("failed", [](const Json& failed) {
    return fmt::format("record {} failed: {}", cell("", member(failed, "record")),
                       printable(text_of(failed, "message")));
  });
  each("outputs", describe_output);
  if (member(answer, "drop_state") == true) line("the state is dropped");
  const Json& state = member(answer, "state_base64");
  if (with_state && state.is_string()) {
    line("new state: " + shown(base64_decode(state.get<std::string>())));
  }
  return text;
}

// On a terminal nothing of a guest's may steer it; a file gets the log as it is.
void print_log(const std::string& log) {
  const std::string text = isatty(STDERR_FILENO) == 1 ? printable(log, true) : log;
  std::fwrite(text.data(), 1, text.size(), stderr);
  if (!text.empty() && text.back() != '\n') std::fputc('\n', stderr);
}

// An answer is a failure where it says so; that is no outcome of the program's.
Expected<> judge(const Options& options, const Json& result) {
  const std::string outcome = text_of(result, "outcome");
  const Json& answer = member(result, "answer");
  if (outcome == "ok") {
    if (!text_of(answer, "failure").empty()) {
      return fail(Code::kInternal, fmt::format("'{}' says that the call failed", options.name));
    }
    const Json& failed = member(answer, "failed");
    if (failed.is_array() && !failed.empty()) {
      return fail(Code::kInternal, fmt::format("'{}' says that the record failed", options.name));
    }
    return {};
  }
  const std::string message = text_of(result, "message");
  return fail(Code::kInternal, fmt::format("the call of '{}' ended with {}{}{}", options.name,
                                           outcome.empty() ? "no outcome" : outcome,
                                           message.empty() ? "" : ": ", message));
}

Expected<> invoke(const Context& context, const Options& options) {
  if (options.input == "-" && options.state_file == "-") {
    return fail(Code::kInvalid, "stdin can not be both the input and the state");
  }
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  const auto called = call(*admin, options);
  if (!called) return std::unexpected(called.error());
  const Json& result = called->body;
  if (!result.is_object()) return fail(Code::kInternal, "the broker's answer holds no call result");

  const Json& answer = member(result, "answer");
  const Json& state = member(answer, "state_base64");
  if (!options.state_out.empty() && state.is_string()) {
    const auto written = write_file(options.state_out, base64_decode(state.get<std::string>()));
    if (!written) return written;
  }
  if (context.json()) {
    print_object(context, result);
  } else {
    const auto written = write_stdout(base64_decode(text_of(result, "output_base64")));
    if (!written) return written;
    if (const auto flushed = flush_stdout(); !flushed) return flushed;
    print_log(base64_decode(text_of(result, "log_base64")));
    const std::string described = describe_answer(answer, options.state_out.empty());
    std::fwrite(described.data(), 1, described.size(), stderr);
  }
  return judge(options, result);
}

}  // namespace

void add_invoke_command(CLI::App& group, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(group, context, "invoke",
                                  "Call a function once and print its result", options, invoke);
  command->add_option("NAME", options->name, "The function")->required();
  command->add_option("FILE", options->input, "What the function reads on stdin; - is our stdin")
      ->capture_default_str();
  command
      ->add_option("--state", options->state_file,
                   "The state that the call begins with; for functions that speak the protocol")
      ->type_name("FILE");
  command
      ->add_option("--state-out", options->state_out,
                   "Where the new state goes, if there is one; otherwise it is shown on stderr")
      ->type_name("FILE");
  command->add_option("--routing-key", options->routing_key, "The record's routing key")
      ->check(short_string)
      ->type_name("K");
  command->footer("Messages that the function wants to send are shown, not sent.");
}

}  // namespace sluice::cli
