#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

// The terms on which a function runs, whatever it runs in: a KVM sandbox (vmm/) or a jailed process
// (process/). Values only; the checks of limits against their ranges are in limits.h.
namespace sluice::executor {

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
  kInputLimit = 11,  // the broker's own
  kCpuLimit = 12,
  kResourceLimit = 13,
  kBadAnswer = 14,
};

// What one function may use. check_limits() says whether the values can be served.
struct Limits {
  uint64_t memory_bytes = 64ull << 20;  // address space that the program can use, stack included
  uint32_t timeout_ms = 5000;           // wall clock of one call, and of the initialisation
  uint32_t cpu_ms = 0;                  // CPU time of one call; 0: as much as the wall clock allows
  uint32_t output_bytes = 16u << 20;    // stdout, or the answer frame; beyond it the call ends
  uint32_t log_bytes = 64u << 10;       // stderr beyond it is cut, with a mark
  uint32_t open_files = 64;
  uint32_t threads = 64;
  uint64_t tmpfs_bytes = 16ull << 20;
};

// What to run. The spans are borrowed for the time of loading.
struct Program {
  std::string name;                 // what /proc/self/exe says, and argv[0] as a rule
  std::span<const uint8_t> image;   // the ELF; empty where it lies in the root file system
  std::span<const uint8_t> rootfs;  // a tar archive; empty: none
  std::string image_path;           // in the root file system, where `image` is empty
  std::vector<std::string> args;    // with argv[0]
  std::vector<std::string> env;     // K=V
};

// The end of one run: of a call, or of an initialisation that ended before it read its input.
struct Ending {
  Outcome outcome = Outcome::kOk;
  int exit_status = 0;
  std::string message;  // one sentence for people, empty when ok
};

struct CallResult {
  Ending ending;
  std::string output;  // stdout; of a program that speaks the function protocol its answer frame
  std::string log;
  uint32_t run_us = 0;       // wall clock from the first entry to the end, reset not included
  uint32_t exits = 0;        // returns from KVM_RUN, signals not counted
  uint32_t dirty_pages = 0;  // pages put back after the call
};

}  // namespace sluice::executor
