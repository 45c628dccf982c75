#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/vmm/elf_image.h"
#include "executor/vmm/guest.h"
#include "executor/vmm/outcome.h"

namespace sluice::vmm {

// Puts an image, its arguments and its auxiliary vector into a fresh guest, as Linux's exec does
// (System V ABI, AMD64 supplement, 3.4.1). Returns the registers to begin with; `random_address`
// becomes where AT_RANDOM's 16 bytes lie. Errors: kInvalid when the arguments do not fit.
Expected<CpuState> load_program(const Machine& machine, const Layout& layout, const ElfImage& image,
                                const Program& program, Guest& guest, uint64_t& random_address);

}  // namespace sluice::vmm
