#include "tools/cli/rootfs_build.h"

#include <filesystem>

#include <fmt/format.h>

#include "tools/cli/context.h"
#include "tools/cli/debian.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/rootfs_packages.h"
#include "tools/cli/rootfs_read.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWrapperPlace = "/usr/lib/python3/dist-packages/sluice.py";
// build/tools/cli/sluice, and a folder more for a build tree in a folder of its own.
constexpr int kBuildTreeDepth = 4;

class Builder {
 public:
  explicit Builder(const RootfsSources& sources) : sources_(sources) {}

  Expected<BuiltRootfs> run() {
    if (const auto done = add_packages_asked(); !done) return std::unexpected(done.error());
    const EntrySeen seen = [&](uint64_t entries) {
      progress_.update("entries of the root file system read", entries);
    };
    for (const std::string& path : sources_.trees) {
      const auto left_out = read_rootfs(built_.tree, path, seen);
      if (!left_out) return std::unexpected(left_out.error());
      if (const std::string sentence = left_out->sentence(); !sentence.empty()) {
        built_.warnings.push_back(fmt::format("'{}': {}", path, sentence));
      }
    }
    for (const AddedFile& file : sources_.files) {
      if (const auto done = add_file(file); !done) return std::unexpected(done.error());
    }
    return std::move(built_);
  }

 private:
  Expected<> add_packages_asked() {
    std::vector<std::string> wanted;
    for (const auto& names : sources_.packages) {
      wanted.insert(wanted.end(), names.begin(), names.end());
    }
    if (wanted.empty()) return {};
    const Note note = [&](const std::string& what) { progress_.say(what); };
    const auto set = resolve_packages(wanted, note);
    if (!set) return std::unexpected(set.error());
    auto content = add_packages(built_.tree, *set, note);
    if (!content) return std::unexpected(content.error());
    built_.warnings = std::move(content->warnings);
    auto program = obvious_program(built_.tree, wanted, content->programs);
    if (program) {
      built_.program = std::move(*program);
    } else {
      built_.no_program = program.error().message;
    }
    return set->contains("python3") ? add_python_wrapper() : Expected<>();
  }

  Expected<> add_python_wrapper() {
    const std::string path = python_wrapper_path();
    if (path.empty()) {
      built_.warnings.emplace_back(
          "sluice.py is not installed beside this program, so the root file system lacks it: "
          "Python functions can read stdin, but not 'import sluice'");
      return {};
    }
    auto text = read_input(path, kInputBytesMax);
    if (!text) return std::unexpected(text.error());
    return built_.tree.add_file(kWrapperPlace, 0644, std::move(*text));
  }

  Expected<> add_file(const AddedFile& file) {
    FirstNames first_names;
    LeftOut left_out;
    std::error_code error;
    if (fs::is_directory(file.source, error)) {
      return fail(Code::kInvalid,
                  fmt::format("--file: '{}' is a directory; --rootfs takes one", file.source));
    }
    // A link given by name stands for what it leads to.
    const fs::path source = fs::canonical(file.source, error);
    const std::string path = error ? file.source : source.string();
    const auto added = read_one(built_.tree, path, file.place(), first_names, left_out);
    if (!added) return fail(added.error().code, "--file: " + added.error().message);
    if (left_out.devices + left_out.sockets + left_out.fifos > 0) {
      return fail(Code::kInvalid, fmt::format("--file: '{}' is not a file", file.source));
    }
    return {};
  }

  const RootfsSources& sources_;
  BuiltRootfs built_;
  Progress progress_;
};

}  // namespace

std::string AddedFile::place() const {
  if (!destination.empty()) return destination;
  return "/app/" + fs::path(source).filename().string();
}

Expected<AddedFile> parse_added_file(std::string_view text) {
  const size_t colon = text.rfind(':');
  AddedFile file{std::string(text.substr(0, colon)), ""};
  if (colon != std::string_view::npos) file.destination = text.substr(colon + 1);
  const bool names_a_folder = file.destination.ends_with('/');
  const bool lacks_destination = colon != std::string_view::npos && file.destination.empty();
  if (file.source.empty() || lacks_destination || file.source.ends_with('/') ||
      (!file.destination.empty() && !file.destination.starts_with('/'))) {
    return fail(Code::kInvalid,
                fmt::format("'{}' is not SRC[:DEST]; write it like handler.py, or "
                            "handler.py:/app/main.py with the path in the root file system",
                            text));
  }
  if (names_a_folder) file.destination += fs::path(file.source).filename().string();
  return file;
}

Expected<std::vector<std::string>> parse_package_names(std::string_view text) {
  std::vector<std::string> names;
  while (true) {
    const size_t comma = text.find(',');
    const std::string name(text.substr(0, comma));
    if (!is_package_name(name)) {
      return fail(Code::kInvalid,
                  fmt::format("'{}' is not the name of a Debian package; write them "
                              "like python3,jq",
                              name));
    }
    names.push_back(name);
    if (comma == std::string_view::npos) return names;
    text.remove_prefix(comma + 1);
  }
}

void add_rootfs_options(CLI::App* command, RootfsSources& sources) {
  add_parsed_each(command, "--from-packages", sources.packages, parse_package_names,
                  "Debian packages to make the root file system of, such as python3,jq, with what "
                  "they depend on; nothing is installed on this machine")
      ->type_name("P,...");
  command
      ->add_option("--rootfs", sources.trees,
                   "The root file system: a directory, or a tar (also .gz, .zst, .xz); comes over "
                   "that of packages")
      ->check(CLI::Validator(CLI::ExistingPath).description(""))
      ->allow_extra_args(false)
      ->type_name("DIR|TAR");
  add_parsed_each(command, "--file", sources.files, parse_added_file,
                  "A file to add to the root file system, by default as /app/NAME; may be repeated")
      ->type_name("SRC[:DEST]");
}

Expected<BuiltRootfs> build_rootfs(const RootfsSources& sources) { return Builder(sources).run(); }

std::string python_wrapper_path() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) return "";
  fs::path folder = program.parent_path();
  const fs::path installed = folder.parent_path() / "share/sluice/python/sluice.py";
  if (fs::is_regular_file(installed, error)) return installed.string();
  for (int i = 0; i < kBuildTreeDepth; ++i) {
    folder = folder.parent_path();
    const fs::path source = folder / "sdk/python/sluice.py";
    if (fs::is_regular_file(source, error)) return source.string();
  }
  return "";
}

}  // namespace sluice::cli
