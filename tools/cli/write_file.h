#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace sluice::cli {

// Writes a file whole. It has its name only once it is, so that a half one is never taken for it;
// what is no plain file (a pipe, a terminal) is written to as it is.
Expected<> write_file(const std::string& path, std::string_view bytes);

}  // namespace sluice::cli
