#pragma once

#include <cstdint>
#include <span>

namespace sluice::vmm {

// Bytes from the system's generator, never the same twice. Gathers small requests per thread.
void fill_random(std::span<uint8_t> bytes);

}  // namespace sluice::vmm
