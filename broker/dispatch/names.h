#pragma once

#include <algorithm>
#include <string_view>

#include "broker/dispatch/limits.h"

namespace sluice::broker::dispatch {

// Names of functions and subscriptions: they are typed, stand in paths and are file-like.
inline constexpr std::string_view kNameRule =
    "name is 1 to 255 letters, digits or any of . _ - and does not begin with - or .";

inline bool valid_name(std::string_view name) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kNameMaxBytes && name[0] != '-' && name[0] != '.' &&
         std::ranges::all_of(name, allowed);
}

}  // namespace sluice::broker::dispatch
