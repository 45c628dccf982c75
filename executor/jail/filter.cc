#include "executor/jail/filter.h"

#include <cstring>
#include <memory>
#include <string>

#include <seccomp.h>

#include "executor/jail/rules.h"

namespace sluice::executor::jail {
namespace {

std::unexpected<Error> refuse(const char* what, int status) {
  return fail(Code::kUnavailable, std::string("the seccomp filter: ") + what + ": " +
                                      std::strerror(-status) +
                                      "; use a kernel with CONFIG_SECCOMP_FILTER, 4.14 or later");
}

}  // namespace

Expected<void> install_filter(int socket_fd, Sandboxes sandboxes) {
  std::unique_ptr<void, void (*)(void*)> filter(seccomp_init(SCMP_ACT_KILL_PROCESS),
                                                seccomp_release);
  if (filter == nullptr) return refuse("making it", -ENOMEM);
  // A call by the 32-bit or x32 numbers ends the process, too, not the thread alone.
  int status = seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  if (status != 0) return refuse("calls of other architectures", status);
  status = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  if (status != 0) return refuse("for all threads", status);
  for (const auto& list : {rules(socket_fd, sandboxes), sanitizer_rules()}) {
    for (const Rule& rule : list) {
      status = seccomp_rule_add_array(filter.get(), rule.action, rule.system_call,
                                      static_cast<unsigned>(rule.conditions.size()),
                                      rule.conditions.data());
      if (status != 0) return refuse("a rule", status);
    }
  }
  // The one that each call of a function makes comes first.
  seccomp_syscall_priority(filter.get(), SCMP_SYS(ioctl), 255);
  status = seccomp_load(filter.get());
  if (status != 0) return refuse("loading it", status);
  return {};
}

}  // namespace sluice::executor::jail
