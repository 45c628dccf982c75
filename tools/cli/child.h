#pragma once

#include <csignal>
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

// While it lives, Ctrl-C and its like end the programs that we run, and us only when it goes out of
// scope: so that there is time to clear up. Single-threaded programs only.
class SignalsLater {
 public:
  SignalsLater();
  ~SignalsLater();
  SignalsLater(const SignalsLater&) = delete;
  SignalsLater& operator=(const SignalsLater&) = delete;

  static bool came();  // one waits

 private:
  sigset_t before_;
};

}  // namespace sluice::cli
