#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/vmm/executable.h"
#include "executor/vmm/guest.h"

namespace sluice::vmm {

// Puts a program, its dynamic linker if it has one, its arguments and its auxiliary vector into a
// fresh guest, as Linux's exec does (System V ABI, AMD64 supplement, 3.4.1). Returns the registers
// to begin with; `random_address` becomes where AT_RANDOM's 16 bytes lie. Errors: kInvalid when the
// arguments do not fit.
Expected<CpuState> load_program(const Machine& machine, const Layout& layout,
                                const Executable& executable, Guest& guest,
                                uint64_t& random_address);

}  // namespace sluice::vmm
