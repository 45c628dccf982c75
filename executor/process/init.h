#pragma once

#include <vector>

#include <linux/filter.h>

#include "executor/process/wire.h"

// The first process of a sandbox's PID namespace. It makes the sandbox from within, starts the
// program, tells the executor what becomes of it, and takes everything with it when it ends: at the
// latest when the executor closes its end of the socket, or the keeper ends. Forked from a keeper.
namespace sluice::process {

// What a keeper has ready for all its inits. Borrowed.
struct InitPlan {
  const Config* config = nullptr;
  bool has_rootfs = false;
  int proc = -1;    // the host's /proc
  int keeper = -1;  // the process above
  int image = -1;   // the program
  int exec_fd = 0;
  const std::vector<sock_filter>* filter = nullptr;
  uint32_t watch = 0;
};

[[noreturn]] void run_init(const InitPlan& plan, Fd control);

}  // namespace sluice::process
