#pragma once

#include <string>
#include <string_view>

#include "tools/cli/parse.h"

namespace sluice::cli {

// Why a connection to `url` cannot be made, in the operating system's words ("connection refused"),
// found by trying once more: the client libraries keep the reason to themselves. "" where it can.
std::string why_unreachable(const Url& url);

// The sentence for a person whose broker does not answer at `url`.
std::string cannot_reach(const Url& url, std::string_view scheme);

}  // namespace sluice::cli
