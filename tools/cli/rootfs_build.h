#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "tools/cli/rootfs_tree.h"

namespace sluice::cli {

// --file SRC[:DEST]: a file of this machine, and where it goes; "" for /app and its own name.
struct AddedFile {
  std::string source;
  std::string destination;

  std::string place() const;
};
Expected<AddedFile> parse_added_file(std::string_view text);

// Debian's names, separated by commas.
Expected<std::vector<std::string>> parse_package_names(std::string_view text);

// Of what a root file system is made, in this order; what comes later takes the place of what was
// there.
struct RootfsSources {
  std::vector<std::vector<std::string>> packages;
  std::vector<std::string> trees;  // directories and archives
  std::vector<AddedFile> files;

  bool empty() const { return packages.empty() && trees.empty() && files.empty(); }
};

struct BuiltRootfs {
  RootfsTree tree;
  std::string program;     // the obvious one of the packages, "" where there is none
  std::string no_program;  // then: what to do about it
  std::vector<std::string> warnings;
};

// --from-packages, --rootfs and --file.
void add_rootfs_options(CLI::App* command, RootfsSources& sources);

// Reads all of it; shows progress on a terminal. Blocking.
Expected<BuiltRootfs> build_rootfs(const RootfsSources& sources);

// sluice.py, which lets a Python function be a plain handler: where it is installed beside this
// program, or in the tree that it was built from. "" where it is not.
std::string python_wrapper_path();

}  // namespace sluice::cli
