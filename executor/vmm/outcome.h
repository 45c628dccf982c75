#pragma once

#include <cstdint>
#include <string>

#include "executor/vmm/limits.h"

namespace sluice::vmm {

// How a call ended; the same list as schemas/executor.fbs (the service asserts it).
enum class Outcome : uint8_t {
  kOk = 0,
  kExitStatus = 1,
  kException = 2,
  kSignal = 3,
  kTimeout = 4,
  kMemoryLimit = 5,
  kOutputLimit = 6,
  kForbiddenSyscall = 7,
  kBadImage = 8,
  kUnavailable = 9,
  kInternal = 10,
};

// What one function may use. check_limits() says whether the values can be served.
struct Limits {
  uint64_t memory_bytes = 64ull << 20;  // address space that the program can use, stack included
  uint32_t timeout_ms = 5000;           // wall clock of one call, and of the initialisation
  uint32_t output_bytes = 16u << 20;    // stdout beyond it ends the call
  uint32_t log_bytes = 64u << 10;       // stderr beyond it is cut, with a mark
  uint32_t open_files = 64;
  uint64_t tmpfs_bytes = 16ull << 20;
};

// The end of one run: of a call, or of an initialisation that ended before it read stdin.
struct Ending {
  Outcome outcome = Outcome::kOk;
  int exit_status = 0;
  std::string message;  // one sentence for people, empty when ok
};

struct CallResult {
  Ending ending;
  std::string output;
  std::string log;
  uint32_t run_us = 0;       // wall clock from the first entry to the end, reset not included
  uint32_t exits = 0;        // returns from KVM_RUN, signals not counted
  uint32_t dirty_pages = 0;  // pages put back after the call
};

}  // namespace sluice::vmm
