// sluice-executor: runs functions for the broker that started it, over a socket it inherits.

#include <algorithm>
#include <cstdio>

#include <CLI/CLI.hpp>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "executor/service/limits.h"
#include "executor/service/service.h"

namespace {

// A sandbox takes a few descriptors; the usual soft limit of 1024 is soon reached.
void raise_descriptor_limit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The broker's descriptors are not for a process that runs strangers' programs, whoever opened them
// without close-on-exec.
void close_inherited(int keep_fd) {
  unsigned keep = static_cast<unsigned>(keep_fd);
  if (keep > 3) close_range(3, keep - 1, 0);
  close_range(std::max(keep, 2u) + 1, ~0u, 0);
}

}  // namespace

int main(int argc, char** argv) {
  sluice::executor::Service::Options options;
  CLI::App app("Runs functions in KVM sandboxes; started by sluiced.");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.add_option("--fd", options.fd, "the connected socket")->check(CLI::Range(0, 1 << 20));
  app.add_option("--workers", options.workers, "calls at the same time (0: four for each CPU)")
      ->check(CLI::Range(0u, sluice::executor::kWorkersMax));
  app.add_option("--kvm", options.kvm_path, "the KVM device");
  CLI11_PARSE(app, argc, argv);

  close_inherited(options.fd);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();

  sluice::executor::Service service(options);
  auto served = service.serve();
  if (!served) std::fprintf(stderr, "sluice-executor: %s\n", served.error().message.c_str());
  // Calls that still run have nobody left to answer to.
  std::fflush(stderr);
  _exit(served ? 0 : 1);
}
