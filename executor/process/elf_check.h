#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"

namespace sluice::process {

// Whether this machine's kernel can be asked to run the image, said better than it would. The
// kernel does its own checks after that. Errors: kInvalid, with the remedy.
Expected<void> check_elf(std::span<const uint8_t> file, bool has_rootfs, uint64_t memory_bytes,
                         uint64_t stack_bytes);

}  // namespace sluice::process
