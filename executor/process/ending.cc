#include "executor/process/ending.h"

#include <csignal>
#include <cstring>

#include <fmt/format.h>
#include <sys/wait.h>

#include "executor/process/limits.h"
#include "executor/vmm/syscall_names.h"

namespace sluice::process {
namespace {

using executor::Ending;
using executor::Limits;
using executor::Outcome;

std::string signal_name(int signal) {
  const char* name = sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

// What the CPU raises; null for a signal that only programs send.
const char* fault_name(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "segmentation fault";
    case SIGBUS:
      return "bus error";
    case SIGILL:
      return "invalid instruction";
    case SIGFPE:
      return "arithmetic error";
    case SIGTRAP:
      return "breakpoint";
    default:
      return nullptr;
  }
}

Ending of_status(int status) {
  if (WIFEXITED(status)) {
    int code = WEXITSTATUS(status);
    if (code == 0) return {};
    return {Outcome::kExitStatus, code, fmt::format("the program ended with exit status {}", code)};
  }
  int signal = WTERMSIG(status);
  if (signal == SIGSYS) {
    return {Outcome::kForbiddenSyscall, 0,
            "the program made a system call by a gate that functions may not use (SIGSYS)"};
  }
  if (const char* fault = fault_name(signal)) {
    return {Outcome::kException, 0, fmt::format("{} ({})", fault, signal_name(signal))};
  }
  return {Outcome::kSignal, 0, fmt::format("the program ended itself by {}", signal_name(signal))};
}

// A program that failed after it met a limit failed for that, as a rule. The kernel does not tell
// of refused requests, so some are known and some are concluded from what was used.
Ending with_cause(Ending ending, const Ended& ended, const Limits& l) {
  if (ended.refused_bytes > 0) {
    return {Outcome::kMemoryLimit, ending.exit_status,
            fmt::format("the memory limit of {} bytes was reached (a request for {} bytes was "
                        "refused); then {}",
                        l.memory_bytes, ended.refused_bytes, ending.message)};
  }
  if (ended.rss_peak_bytes >= l.memory_bytes / 8 * kMemoryFullEighths) {
    return {Outcome::kMemoryLimit, ending.exit_status,
            fmt::format("the memory limit of {} bytes was reached ({} bytes were in use); then {}",
                        l.memory_bytes, ended.rss_peak_bytes, ending.message)};
  }
  auto resource = [&](const std::string& what) {
    return Ending{Outcome::kResourceLimit, ending.exit_status,
                  fmt::format("{} was reached; then {}", what, ending.message)};
  };
  if (ended.refused_thread) return resource(fmt::format("the limit of {} threads", l.threads));
  if (ended.files_full) return resource(fmt::format("the limit of {} open files", l.open_files));
  if (ended.tmpfs_full) {
    return resource(fmt::format("the limit of {} bytes for temporary files", l.tmpfs_bytes));
  }
  return ending;
}

}  // namespace

Ending ending_of(const Ended& ended, const Limits& limits) {
  switch (ended.cause) {
    case Cause::kForbidden:
      return {Outcome::kForbiddenSyscall, 0,
              fmt::format("the program made the system call {} ({}), which functions may not use",
                          vmm::syscall_name(ended.syscall), ended.syscall)};
    case Cause::kCpu:
      return {Outcome::kCpuLimit, 0,
              fmt::format("the program used more CPU time than its limit of {} ms", limits.cpu_ms)};
    case Cause::kKilled:
      return {Outcome::kUnavailable, 0, "the sandbox's process was killed from outside"};
    case Cause::kItself:
      break;
  }
  if (WIFSIGNALED(ended.wait_status) && WTERMSIG(ended.wait_status) == SIGKILL &&
      !ended.sent_signal) {
    return {Outcome::kUnavailable, 0,
            "the program was killed from outside; is the machine out of memory?"};
  }
  Ending ending = of_status(ended.wait_status);
  if (ending.outcome == Outcome::kOk || ending.outcome == Outcome::kForbiddenSyscall) return ending;
  return with_cause(std::move(ending), ended, limits);
}

}  // namespace sluice::process
