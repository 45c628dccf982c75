#pragma once

#include <cstddef>
#include <string>

#include "base/error.h"

namespace sluice::cli {

// A file, or stdin where `path` is "-", whole. kLimit above `bytes_max`.
Expected<std::string> read_input(const std::string& path, size_t bytes_max);

}  // namespace sluice::cli
