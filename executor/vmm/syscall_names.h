#pragma once

#include <cstdint>

namespace sluice::vmm {

// The name of a Linux x86-64 system call, "unknown" for a number that has none.
const char* syscall_name(uint64_t number);

}  // namespace sluice::vmm
