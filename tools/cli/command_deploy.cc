#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tools/cli/function_commands.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/rootfs_build.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string name;
  std::string image;
  RootfsSources rootfs;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;
  std::optional<uint64_t> memory_bytes;
  std::optional<uint64_t> timeout_ms;
  std::optional<uint64_t> cpu_ms;
  std::optional<uint64_t> output_bytes;
  std::optional<uint64_t> log_bytes;
  std::optional<uint64_t> tmpfs_bytes;
  std::optional<uint32_t> open_files;
  std::optional<uint32_t> threads;
  std::optional<uint32_t> concurrency;
};

// What is to be run: an image of its own, or a path in a root file system.
struct Program {
  std::string image;   // the ELF, empty where it lies in the root file system
  std::string path;    // there
  std::string rootfs;  // a tar, empty where there is none
  std::vector<std::string> arguments;

  std::string shown() const {
    std::string text = path;
    for (const std::string& argument : arguments) text += " " + argument;
    return text;
  }
};

// Where a limit was not given, the broker knows the default.
Json deploy_config(const Options& options, const Program& program) {
  const std::string& image = program.path.empty() ? options.image : program.path;
  Json config = {{"image_name", std::filesystem::path(image).filename().string()},
                 {"args", program.arguments}};
  Json& environment = config["env"] = Json::array();
  for (const auto& [key, value] : options.environment) environment.push_back(key + "=" + value);
  if (!program.path.empty()) config["image_path"] = program.path;
  const auto set = [&](const char* name, const auto& value) {
    if (value) config[name] = *value;
  };
  set("memory_bytes", options.memory_bytes);
  set("timeout_ms", options.timeout_ms);
  set("cpu_ms", options.cpu_ms);
  set("output_bytes", options.output_bytes);
  set("log_bytes", options.log_bytes);
  set("open_files", options.open_files);
  set("threads", options.threads);
  set("tmpfs_bytes", options.tmpfs_bytes);
  set("concurrency", options.concurrency);
  return config;
}

Expected<std::string> check_program(const RootfsTree& tree, const std::string& path) {
  const RootfsTree::Node* node = tree.find(path);
  if (node == nullptr) {
    return fail(Code::kInvalid, fmt::format("--image: the root file system has no '{}'", path));
  }
  if (node->kind != RootfsTree::Kind::kFile || (node->mode & 0111) == 0) {
    return fail(Code::kInvalid,
                fmt::format("--image: '{}' in the root file system is no program; it has to be an "
                            "executable file",
                            path));
  }
  if (node->content.starts_with("#!")) {
    return fail(Code::kInvalid,
                fmt::format("--image: '{}' is a script; give its interpreter with --image and the "
                            "script with --arg",
                            path));
  }
  return path.starts_with('/') ? path : "/" + path;
}

// A plain program with files beside it: a root file system of these and itself.
Expected<std::string> add_image(RootfsTree& tree, const std::string& image) {
  auto bytes = read_input(image, kImageBytesMax);
  if (!bytes) return std::unexpected(bytes.error());
  const std::string path = "/app/" + std::filesystem::path(image).filename().string();
  if (tree.find(path) != nullptr) {
    return fail(
        Code::kInvalid,
        fmt::format("--file: '{}' is the place of the program; give the file another one", path));
  }
  if (const auto added = tree.add_file(path, 0755, std::move(*bytes)); !added) {
    return std::unexpected(added.error());
  }
  return path;
}

Expected<Program> rootfs_program(const Options& options) {
  auto built = build_rootfs(options.rootfs);
  if (!built) return std::unexpected(built.error());
  for (const std::string& warning : built->warnings) {
    std::fprintf(stderr, "warning: %s\n", printable(warning).c_str());
  }
  Program program{.arguments = options.arguments};
  const bool only_files = options.rootfs.packages.empty() && options.rootfs.trees.empty();
  Expected<std::string> path = built->program;
  if (only_files) {
    path = options.image.empty() ? fail(Code::kInvalid, "which program is to run? --image FILE")
                                 : add_image(built->tree, options.image);
  } else if (!options.image.empty()) {
    path = check_program(built->tree, options.image);
  } else if (path->empty()) {
    path = fail(Code::kInvalid, built->no_program.empty()
                                    ? "which program is to run? Give its path in the root file "
                                      "system with --image"
                                    : built->no_program);
  } else if (options.arguments.empty() && options.rootfs.files.size() == 1) {
    // An interpreter and one file: the file is what it is for.
    program.arguments = {options.rootfs.files[0].place()};
  }
  if (!path) return std::unexpected(path.error());
  program.path = std::move(*path);
  program.rootfs = built->tree.to_tar();
  return program;
}

Expected<Program> plain_program(const Options& options) {
  if (options.image.empty()) {
    return fail(Code::kInvalid,
                "what is to run? --image FILE is a static program; --from-packages "
                "or --rootfs bring programs with what they need");
  }
  auto image = read_input(options.image, kImageBytesMax);
  if (!image) return std::unexpected(image.error());
  return Program{.image = std::move(*image), .arguments = options.arguments};
}

void print_deployed(const Context& context, const Options& options, const Program& program,
                    uint64_t bytes, const Json& function) {
  if (context.json()) return print_object(context, function);
  const std::string what = program.path.empty()
                               ? human_bytes(bytes)
                               : fmt::format("{} in {}", program.shown(), human_bytes(bytes));
  print_done(context,
             fmt::format("function '{}' version {} deployed ({}, {})", options.name,
                         cell("", function.value("version", Json())), what,
                         cell("", function.value("state", Json("state unknown")))),
             {});
  const std::string warning = cell("", function.value("warning", Json("")));
  if (!warning.empty()) std::fprintf(stderr, "warning: %s\n", warning.c_str());
}

Expected<> deploy(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto program = options.rootfs.empty() ? plain_program(options) : rootfs_program(options);
  if (!program) return std::unexpected(program.error());
  const auto config = json_text(deploy_config(options, *program));
  if (!config) return std::unexpected(config.error());

  std::vector<Admin::Part> parts = {{"config", *config, true}};
  if (program->path.empty()) {
    parts.push_back({"image", std::move(program->image)});
  } else {
    parts.push_back({"rootfs", std::move(program->rootfs)});
  }
  const uint64_t bytes = parts[1].content.size();
  Expected<Admin::Answer> answer;
  {
    Progress progress;
    answer = admin->put_form(
        api_path({"functions", options.name}), parts, [&](uint64_t sent, uint64_t of) {
          progress.update(fmt::format("% of {} sent", human_bytes(of)), sent * 100 / of);
          if (sent == of) progress.say("waiting for the function to start");
        });
  }
  if (!answer) return std::unexpected(answer.error());
  if (!answer->body.is_object()) return fail(Code::kInternal, "the broker's answer is no function");
  print_deployed(context, options, *program, bytes, answer->body);
  return {};
}

void add_limits(CLI::App* command, Options& options) {
  const auto size = [&](const char* name, auto& target, const char* description) {
    add_parsed(command, name, target, parse_size_bytes, description)
        ->type_name("SIZE")
        ->group("Limits of one call");
  };
  const auto time = [&](const char* name, auto& target, const char* description) {
    add_parsed(command, name, target, parse_duration_ms, description)
        ->type_name("TIME")
        ->group("Limits of one call");
  };
  const auto count = [&](const char* name, auto& target, const char* description) {
    command->add_option(name, target, description)
        ->check(CLI::Range(1u, 1'000'000u))
        ->type_name("N")
        ->group("Limits of one call");
  };
  size("--memory", options.memory_bytes, "Memory that it may use; 64MiB");
  time("--timeout", options.timeout_ms, "How long it may take; 5s");
  time("--cpu-time", options.cpu_ms, "CPU time that it may take, such as 500ms; as --timeout");
  size("--output-limit", options.output_bytes, "How long its result may be; 16MiB");
  size("--log-limit", options.log_bytes, "What is kept of its log; 64KiB");
  count("--open-files", options.open_files, "Files that it may have open; 64");
  count("--threads", options.threads, "Threads that it may have; 64");
  size("--tmpfs", options.tmpfs_bytes, "What it may write to /tmp; 16MiB");
  count("--concurrency", options.concurrency,
        "Calls of this function at the same time; as many as the executor runs");
}

}  // namespace

void add_deploy_command(CLI::App& group, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(group, context, "deploy", "Deploy a program as the next version",
                                  options, deploy);
  command->add_option("NAME", options->name, "The function")->required();
  command
      ->add_option("--image", options->image,
                   "A static x86-64 Linux program; with --rootfs or --from-packages the program's "
                   "path in the root file system, by default the one that the package is for")
      ->type_name("FILE|PATH");
  add_rootfs_options(command, options->rootfs);
  command
      ->add_option("--arg", options->arguments,
                   "An argument of the program; may be repeated; write --arg=-x for -x. By default "
                   "the one --file where --from-packages says the program")
      ->allow_extra_args(false)
      ->type_name("A");
  add_parsed_each(command, "--env", options->environment, parse_key_value,
                  "A variable of its environment; may be repeated")
      ->type_name("K=V");
  add_limits(command, *options);
  // Without a root file system the program is a file of this machine, and a mistake in its name is
  // one on the command line.
  command->parse_complete_callback([options] {
    const bool file = options->rootfs.packages.empty() && options->rootfs.trees.empty();
    const std::string missing =
        file && !options->image.empty() ? CLI::ExistingFile(options->image) : "";
    if (!missing.empty()) throw CLI::ValidationError("--image", missing);
    if (options->image.empty() && options->rootfs.packages.empty()) {
      throw CLI::RequiredError(file ? "--image, or --from-packages,"
                                    : "With --rootfs, --image PATH");
    }
  });
  command->footer(
      "A Python function in one file:\n"
      "  sluice function deploy NAME --from-packages python3 --file handler.py");
}

}  // namespace sluice::cli
