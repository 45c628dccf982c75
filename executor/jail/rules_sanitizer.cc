// In builds with a sanitizer only (meson.build), never in one that ships.

#include <cerrno>

#include "executor/jail/rules.h"

namespace sluice::executor::jail {

std::vector<Rule> sanitizer_rules() {
  // Files that the runtime looks for, for names and lines in its reports, are told not to be there;
  // so the reports have addresses only, and the process lives to write them.
  uint32_t none = SCMP_ACT_ERRNO(ENOENT);
  return {
      {SCMP_SYS(open), {}, none},
      {SCMP_SYS(openat), {}, none},
      {SCMP_SYS(readlink), {}, none},
      {SCMP_SYS(stat), {}, none},
      {SCMP_SYS(newfstatat), {}, none},
      // Each thread's stack for signal handlers, and its limits.
      {SCMP_SYS(sigaltstack)},
      {SCMP_SYS(prlimit64), {{2, SCMP_CMP_EQ, 0, 0}}},
      // How much memory there is; whether a pointer can be read, tried through a pipe.
      {SCMP_SYS(getrusage)},
      {SCMP_SYS(pipe2), {}, none},
      {SCMP_SYS(gettimeofday)},
      {SCMP_SYS(getppid)},
      {SCMP_SYS(ioctl), {{1, SCMP_CMP_EQ, 0x5401 /* TCGETS */, 0}}},
  };
}

}  // namespace sluice::executor::jail
