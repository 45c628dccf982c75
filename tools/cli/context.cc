#include "tools/cli/context.h"

#include <cstdlib>

#include <fmt/format.h>

#include "tools/cli/limits.h"

namespace sluice::cli {

std::string above_zero(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool number = end != text.c_str() && *end == '\0';
  return number && value > 0 ? "" : fmt::format("'{}' is not a number above 0", text);
}

std::string short_string(const std::string& text) {
  return text.size() <= kShortStringBytesMax
             ? ""
             : fmt::format("longer than AMQP allows ({} bytes)", kShortStringBytesMax);
}

}  // namespace sluice::cli
