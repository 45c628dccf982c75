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
      // Whether a pointer can be read: by writing what it points to into a pipe.
      {SCMP_SYS(pipe)},
      {SCMP_SYS(pipe2)},
      {SCMP_SYS(write)},
      // Each thread's stack, its attributes and its stack for signal handlers.
      {SCMP_SYS(sched_getaffinity)},
      {SCMP_SYS(sigaltstack)},
      {SCMP_SYS(prlimit64), {{2, SCMP_CMP_EQ, 0, 0}}},
      // How much memory is in use; colours in reports.
      {SCMP_SYS(getrusage)},
      {SCMP_SYS(ioctl), {{1, SCMP_CMP_EQ, 0x5401 /* TCGETS */, 0}}},
  };
}

}  // namespace sluice::executor::jail
