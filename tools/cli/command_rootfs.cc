#include <cstdio>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/output.h"
#include "tools/cli/rootfs_build.h"
#include "tools/cli/text.h"
#include "tools/cli/write_file.h"

namespace sluice::cli {
namespace {

struct Options {
  RootfsSources sources;
  std::string out;
};

Expected<> make(const Context& context, const Options& options) {
  if (options.sources.empty()) {
    return fail(Code::kInvalid, "of what? Give --from-packages, --rootfs or --file");
  }
  const bool standard = options.out == "-";
  if (standard && isatty(STDOUT_FILENO) == 1) {
    return fail(Code::kInvalid, "a tar archive is nothing for a terminal; give -o FILE.tar");
  }
  const auto built = build_rootfs(options.sources);
  if (!built) return std::unexpected(built.error());
  for (const std::string& warning : built->warnings) {
    std::fprintf(stderr, "warning: %s\n", printable(warning).c_str());
  }
  const std::string tar = built->tree.to_tar();
  if (standard) return write_stdout(tar);
  if (const auto written = write_file(options.out, tar); !written) return written;
  print_done(context,
             fmt::format("{} made: {} in {}{}", options.out, human_bytes(tar.size()),
                         counted(built->tree.entries(), "entry", "entries"),
                         built->program.empty() ? "" : "; its program is " + built->program),
             {{"file", options.out},
              {"bytes", tar.size()},
              {"entries", built->tree.entries()},
              {"program", built->program.empty() ? Json() : Json(built->program)}});
  return {};
}

}  // namespace

void add_rootfs_commands(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("rootfs", "Make root file systems for functions");
  group->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(*group, context, "make",
                  "Make a root file system, as 'function deploy' would, as a tar to "
                  "look at and to give to --rootfs",
                  options, make);
  add_rootfs_options(command, options->sources);
  command->add_option("-o,--out", options->out, "The tar to write; - is stdout")
      ->required()
      ->type_name("FILE.tar");
}

}  // namespace sluice::cli
