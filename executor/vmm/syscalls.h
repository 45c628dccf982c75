#pragma once

#include <cstdint>
#include <span>

#include "executor/vmm/kernel.h"

namespace sluice::vmm {

// One entry of the allow-list. A call that has none ends the program with forbidden_syscall.
struct SyscallRule {
  uint64_t number;
  int64_t (Kernel::*handler)(const Syscall&);  // null: answered with fixed_result
  int64_t fixed_result;
  const char* why;
};

struct SyscallTable {
  static std::span<const SyscallRule> rules();
  static const SyscallRule* find(uint64_t number);
};

}  // namespace sluice::vmm
