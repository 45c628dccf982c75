#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace sluice::cli {

enum class Format { kTable, kJson };

// The flags that every command knows, and what the chosen command will do. Parsing fills it; main
// then runs the action, so that no command runs before the whole line was understood.
struct Context {
  std::string admin_url = "http://guest:guest@127.0.0.1:15672";
  std::string amqp_url = "amqp://guest:guest@127.0.0.1:5672";
  Format format = Format::kTable;
  std::function<Expected<>()> action;

  bool json() const { return format == Format::kJson; }
};

// Each adds one group of commands. `context` outlives `app`.
void add_status_command(CLI::App& app, Context& context);
void add_queue_commands(CLI::App& app, Context& context);
void add_exchange_commands(CLI::App& app, Context& context);
void add_publish_command(CLI::App& app, Context& context);
void add_consume_command(CLI::App& app, Context& context);
void add_function_commands(CLI::App& app, Context& context);
void add_subscription_commands(CLI::App& app, Context& context);
void add_rootfs_commands(CLI::App& app, Context& context);
void add_top_command(CLI::App& app, Context& context);

// Checks for add_option(): "" where the text is fine, else what is wrong with it.
std::string above_zero(const std::string& text);
std::string short_string(const std::string& text);  // AMQP's limit for names and keys

// A subcommand whose parsed `Options` go to `run`.
template <typename Options>
CLI::App* add_command(CLI::App& parent, Context& context, const std::string& name,
                      const std::string& description, std::shared_ptr<Options> options,
                      Expected<> (*run)(const Context&, const Options&)) {
  CLI::App* command = parent.add_subcommand(name, description);
  command->callback([&context, options = std::move(options), run] {
    context.action = [&context, options, run] { return run(context, *options); };
  });
  return command;
}

// An option whose text goes through one of parse.h's functions; what that refuses is a usage error.
template <typename T, typename Target>
CLI::Option* add_parsed(CLI::App* command, const std::string& name, Target& target,
                        Expected<T> (*parse)(std::string_view), const std::string& description) {
  return command->add_option_function<std::string>(
      name,
      [&target, parse, name](const std::string& text) {
        auto value = parse(text);
        if (!value) throw CLI::ValidationError(name, value.error().message);
        target = std::move(*value);
      },
      description);
}

// The same for an option that may be repeated; `target` is a container.
template <typename T, typename Target>
CLI::Option* add_parsed_each(CLI::App* command, const std::string& name, Target& target,
                             Expected<T> (*parse)(std::string_view),
                             const std::string& description) {
  return command
      ->add_option_function<std::vector<std::string>>(
          name,
          [&target, parse, name](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              auto value = parse(text);
              if (!value) throw CLI::ValidationError(name, value.error().message);
              target.push_back(std::move(*value));
            }
          },
          description)
      ->allow_extra_args(false);
}

}  // namespace sluice::cli
