#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/vmm/elf_image.h"
#include "executor/vmm/outcome.h"
#include "executor/vmm/rootfs.h"

namespace sluice::vmm {

// What a program's name comes to, as Linux's execve finds it: the ELF itself, or the one that a
// script's first line names, and its dynamic linker. Spans point into the program's image or into
// the root file system.
struct Executable {
  std::shared_ptr<const RootFs> rootfs;  // null: none
  std::string path;                      // what /proc/self/exe says
  std::span<const uint8_t> file;
  ElfImage image;
  std::span<const uint8_t> linker_file;  // empty: statically linked
  ElfImage linker;                       // as if it lay at kPieBase
  std::vector<std::string> args, env;
};

// Errors: kInvalid, with what is wrong and the remedy.
Expected<Executable> find_executable(const Program& program);

}  // namespace sluice::vmm
