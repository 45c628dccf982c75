#include <cstdio>
#include <exception>

#include "tools/cli/context.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace {

using namespace sluice;
using namespace sluice::cli;

constexpr int kFailed = 1;
constexpr int kUsage = 2;

void add_global_options(CLI::App& app, Context& context) {
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.add_option("--admin", context.admin_url, "The broker's HTTP address")
      ->envname("SLUICE_ADMIN")
      ->take_last()
      ->capture_default_str()
      ->type_name("URL");
  app.add_option("--amqp", context.amqp_url, "The broker's AMQP address, for publish and consume")
      ->envname("SLUICE_AMQP")
      ->take_last()
      ->capture_default_str()
      ->type_name("URL");
  app.add_option_function<std::string>(
         "-o,--output",
         [&context](const std::string& name) {
           context.format = name == "json" ? Format::kJson : Format::kTable;
         },
         "How results are printed: table (for people) or json (for programs)")
      ->check(CLI::IsMember({"table", "json"}))
      ->take_last()
      ->type_name("FORMAT");
}

int run(int argc, char** argv) {
  Context context;
  CLI::App app("Administers a Sluice broker; publishes and consumes its messages.", "sluice");
  app.footer("Exit status: 0 done, 1 failed, 2 the command line is wrong.");
  app.fallthrough();
  app.require_subcommand(1);
  add_global_options(app, context);
  add_status_command(app, context);
  add_queue_commands(app, context);
  add_exchange_commands(app, context);
  add_publish_command(app, context);
  add_consume_command(app, context);
  add_function_commands(app, context);
  add_subscription_commands(app, context);
  add_rootfs_commands(app, context);
  add_top_command(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }

  Expected<> done = context.action();
  if (done) done = flush_stdout();
  if (done) return 0;
  std::fflush(stdout);
  std::fprintf(stderr, "sluice: %s\n", printable(done.error().message, true).c_str());
  return kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  // The flags and JSON libraries throw on what is ours to prevent; a sentence beats an abort.
  try {
    return run(argc, argv);
  } catch (const Json::exception& error) {
    std::fprintf(stderr,
                 "sluice: the broker's answer has another form than expected; are sluice and "
                 "sluiced of one version? (%s)\n",
                 error.what());
    return kFailed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sluice: defect: %s\n", error.what());
    return kFailed;
  }
}
