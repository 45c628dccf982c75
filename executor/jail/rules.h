#pragma once

#include <cstdint>
#include <vector>

#include <seccomp.h>

// The allow-list, as values.
namespace sluice::executor::jail {

// What functions run in.
enum class Sandboxes { kKvm, kProcesses };

struct Rule {
  int system_call;
  // All of them must hold; several rules for one system call: one of them. The kernel sees 32 bits
  // of an int, a filter 64: a comparison of all 64 lets through less, which is what we want.
  std::vector<scmp_arg_cmp> conditions = {};
  uint32_t action = SCMP_ACT_ALLOW;
};

// What the executor of such sandboxes calls once it serves.
std::vector<Rule> rules(int socket_fd, Sandboxes sandboxes = Sandboxes::kKvm);

// What a sanitizer's runtime calls besides; empty in a build without (rules_sanitizer.cc is no part
// of it then).
std::vector<Rule> sanitizer_rules();

}  // namespace sluice::executor::jail
