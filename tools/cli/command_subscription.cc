#include <optional>
#include <string>

#include <fmt/format.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/output.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string name;
  std::string queue;
  std::string function;
  std::optional<uint32_t> concurrency;
  std::optional<uint32_t> batch_size;
  std::optional<uint64_t> batch_window_ms;
  std::optional<uint32_t> max_attempts;
  std::optional<Backoff> backoff;
  std::optional<Destination> on_failure;
  std::optional<Destination> result;
};

Json destination_json(const Destination& destination) {
  return {{"exchange", destination.exchange}, {"routing_key", destination.routing_key}};
}

// Only what was asked for: the broker knows the defaults.
Json subscription_json(const Options& options) {
  Json body = {{"name", options.name}, {"queue", options.queue}, {"function", options.function}};
  if (options.concurrency) body["concurrency"] = *options.concurrency;
  if (options.batch_size) body["batch_size"] = *options.batch_size;
  if (options.batch_window_ms) body["batch_window_ms"] = *options.batch_window_ms;
  if (options.max_attempts) body["max_attempts"] = *options.max_attempts;
  if (options.backoff) {
    body["backoff_min_ms"] = options.backoff->min_ms;
    body["backoff_max_ms"] = options.backoff->max_ms;
  }
  if (options.on_failure) body["on_failure"] = destination_json(*options.on_failure);
  if (options.result) body["result"] = destination_json(*options.result);
  return body;
}

Expected<> create(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->put(api_path({"subscriptions", options.name}), subscription_json(options));
  if (!answer) return std::unexpected(answer.error());
  const bool created = answer->status == 201;
  print_done(context,
             fmt::format("subscription '{}' {}: queue '{}' calls function '{}'", options.name,
                         created ? "created" : "changed", options.queue, options.function),
             {{"name", options.name}, {"created", created}});
  return {};
}

Expected<> list(const Context& context, const Options&) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get("/api/subscriptions");
  if (!answer) return std::unexpected(answer.error());
  print_list(
      context, answer->body,
      {{"NAME", "name"},
       {"QUEUE", "queue"},
       {"FUNCTION", "function"},
       {"STATE", "state"},
       {"BATCH", "batch_size"},
       {"WINDOW", "batch_window_ms"},
       {"IN FLIGHT", "in_flight"},
       {"WAITING", "waiting_retry"},
       {"SUCCEEDED", "succeeded"},
       {"FAILED", "failed"},
       {"DEAD-LETTERED", "dead_lettered"},
       {"RESULT", "result"}},
      "no subscriptions; 'sluice subscription create NAME --queue Q --function F' makes one");
  return {};
}

Expected<> show(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->get(api_path({"subscriptions", options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_object(context, answer->body);
  return {};
}

Expected<> set_paused(const Context& context, const Options& options, bool paused) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->post(api_path({"subscriptions", options.name, paused ? "pause" : "resume"}),
                            Json::object());
  if (!answer) return std::unexpected(answer.error());
  print_done(context,
             fmt::format("subscription '{}' {}", options.name, paused ? "paused" : "resumed"),
             {{"name", options.name}, {"paused", paused}});
  return {};
}

Expected<> pause(const Context& context, const Options& options) {
  return set_paused(context, options, true);
}

Expected<> resume(const Context& context, const Options& options) {
  return set_paused(context, options, false);
}

Expected<> remove(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto answer = admin->del(api_path({"subscriptions", options.name}));
  if (!answer) return std::unexpected(answer.error());
  print_done(context, fmt::format("subscription '{}' deleted", options.name),
             {{"name", options.name}, {"deleted", true}});
  return {};
}

void add_create_options(CLI::App* command, const std::shared_ptr<Options>& options) {
  command->add_option("--queue", options->queue, "Whose messages")->required()->type_name("Q");
  command->add_option("--function", options->function, "Called with each of them")
      ->required()
      ->type_name("F");
  command->add_option("--concurrency", options->concurrency, "Calls at the same time, at most")
      ->check(CLI::Range(1u, 100'000u))
      ->type_name("N");
  command
      ->add_option("--batch-size", options->batch_size,
                   "Messages in one call, at most; more than one is for functions that speak the "
                   "protocol; 1")
      ->check(CLI::Range(1u, 100'000u))
      ->type_name("N");
  add_parsed(command, "--batch-window", options->batch_window_ms, parse_duration_ms,
             "How long a batch waits to be full, such as 50ms; 0ms")
      ->type_name("TIME");
  command
      ->add_option("--max-attempts", options->max_attempts,
                   "Calls for one message before it is dead-lettered")
      ->check(CLI::Range(1u, 1'000'000u))
      ->type_name("N");
  add_parsed(command, "--backoff", options->backoff, parse_backoff,
             "Wait before a retry: the shortest and the longest, such as 100ms..30s")
      ->type_name("MIN..MAX");
  add_parsed(command, "--on-failure", options->on_failure, parse_destination,
             "Where messages go that failed for good; /QUEUE is a queue")
      ->type_name("EXCHANGE/KEY");
  add_parsed(command, "--result", options->result, parse_destination,
             "Where results go; a message's own reply_to wins")
      ->type_name("EXCHANGE/KEY");
}

}  // namespace

void add_subscription_commands(CLI::App& app, Context& context) {
  CLI::App* group =
      app.add_subcommand("subscription", "Let the messages of a queue call a function");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* description, auto run) {
    return add_command(*group, context, name, description, options, run);
  };
  const auto with_name = [&](CLI::App* command) {
    command->add_option("NAME", options->name, "The subscription")->required();
    return command;
  };

  add_create_options(with_name(add("create", "Create or change a subscription", create)), options);
  add("list", "All subscriptions", list);
  with_name(add("show", "One subscription and its counters", show));
  with_name(add("pause", "Stop calling; messages stay in the queue", pause));
  with_name(add("resume", "Go on calling", resume));
  with_name(add("delete", "Delete a subscription; its queue and function stay", remove));
}

}  // namespace sluice::cli
