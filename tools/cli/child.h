#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace sluice::cli {

struct ChildResult {
  int status = 0;  // its exit status; 128 and the signal where one ended it
  std::string output;
  std::string errors;  // what it wrote on stderr, the last 4 KiB
};

// Runs a program (searched in PATH) to its end, with messages in English and stdin empty, and reads
// what it prints, at most kChildOutputBytesMax. `directory` is where it runs, "" for here. Blocks.
// kUnavailable where the program is not there.
Expected<ChildResult> run_child(const std::vector<std::string>& command,
                                const std::string& directory = "");

// The same, where a status other than 0 is an Error with what it wrote on stderr.
Expected<std::string> output_of(const std::vector<std::string>& command,
                                const std::string& directory = "");

}  // namespace sluice::cli
