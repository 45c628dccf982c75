#pragma once

#include "executor/process/wire.h"

// A keeper holds one image: the namespaces that its processes share, and the root file system,
// which lies in memory in its mount namespace and so goes when the keeper does. It starts an init
// for each process that it is asked for. Forked from the spawner; ends when the executor closes its
// socket, or the spawner ends.
namespace sluice::process {

struct KeeperParts {
  Fd socket;
  Fd config;
  Fd image;   // none: it lies in the root file system
  Fd rootfs;  // none: there is none
};

// `proc` is a descriptor of the host's /proc, `spawner` one of the process above.
[[noreturn]] void run_keeper(KeeperParts parts, int proc, int spawner);

}  // namespace sluice::process
