// sluice-executor: runs functions for the broker that started it, over a socket it inherits.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/jail/jail.h"
#include "executor/pool/memory.h"
#include "executor/process/process_backend.h"
#include "executor/process/spawner.h"
#include "executor/service/limits.h"
#include "executor/service/service.h"
#include "executor/vmm/kvm_backend.h"

namespace {

namespace jail = sluice::executor::jail;

struct Settings {
  sluice::executor::Service::Options service;
  jail::Options jail;
  std::string sandbox = "kvm";
  std::string kvm_path = "/dev/kvm";
  bool no_jail = false;
};

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

// What functions run in, or why there is nothing.
void open_backend(Settings& settings, std::unique_ptr<sluice::process::Spawner>& spawner) {
  auto& service = settings.service;
  auto take = [&service](auto backend) {
    if (backend) {
      service.backend = std::move(*backend);
    } else {
      service.unavailable = backend.error().message;
    }
  };
  if (settings.sandbox == "kvm") {
    return take(sluice::vmm::KvmBackend::open(settings.kvm_path.c_str()));
  }
  auto started = sluice::process::Spawner::start({});
  if (!started) {
    service.unavailable = started.error().message;
    return;
  }
  spawner = std::move(*started);
  take(sluice::process::ProcessBackend::open(*spawner));
}

// Without the process that starts programs nothing runs any more, and a new one can not be had in
// the jail: the broker starts another executor, and the calls that fail here are made there.
void end_with(pid_t spawner) {
  while (waitpid(spawner, nullptr, 0) < 0 && errno == EINTR) {
  }
  std::fprintf(stderr, "sluice-executor: the process that starts programs has ended\n");
  _exit(1);
}

// Each a line of its own on stderr, which the broker logs.
bool enter_jail(const Settings& settings) {
  if (settings.no_jail) {
    std::fprintf(
        stderr,
        "sluice-executor: NO JAIL (--no-jail): a program that breaks out of its sandbox has "
        "all rights of user %u; for debugging only\n",
        geteuid());
    return true;
  }
  auto missing = jail::enter(settings.jail);
  if (!missing) {
    std::fprintf(stderr, "sluice-executor: no jail, so no functions: %s\n",
                 missing.error().message.c_str());
    return false;
  }
  std::string list;
  for (const std::string& clause : *missing) list += (list.empty() ? "" : "; ") + clause;
  if (!list.empty()) {
    std::fprintf(stderr, "sluice-executor: the jail is weaker than it can be: %s\n", list.c_str());
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Runs functions in sandboxes; started by sluiced.");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.add_option("--fd", settings.service.fd, "the connected socket")
      ->check(CLI::Range(3, 1 << 20));
  app.add_option("--sandbox", settings.sandbox, "what functions run in: kvm or process")
      ->check(CLI::IsMember({"kvm", "process"}));
  app.add_option("--workers", settings.service.workers,
                 "calls at the same time (0: four for each CPU)")
      ->check(CLI::Range(0u, sluice::executor::kWorkersMax));
  app.add_option("--memory-budget", settings.service.memory_budget_bytes,
                 "bytes of memory for sandboxes (0: half of the machine's)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--kvm", settings.kvm_path, "the KVM device");
  app.add_option("--user", settings.jail.user, "the user to become, where root starts it")
      ->check(CLI::Range(uid_t{1}, jail::kUserIdMax));
  app.add_flag("--no-jail", settings.no_jail, "for debugging: keep all rights and see all files");
  CLI11_PARSE(app, argc, argv);
  settings.jail.socket_fd = settings.service.fd;
  settings.jail.sandboxes =
      settings.sandbox == "kvm" ? jail::Sandboxes::kKvm : jail::Sandboxes::kProcesses;

  close_inherited(settings.service.fd);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // until the jail sets it again
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();

  // In this order: all that is opened, and the process that starts others, before the jail; all
  // threads, and all that comes from outside, within.
  std::unique_ptr<sluice::process::Spawner> spawner;
  open_backend(settings, spawner);
  if (settings.service.memory_budget_bytes == 0) {
    settings.service.memory_budget_bytes = sluice::executor::default_memory_budget();
  }
  if (!enter_jail(settings)) _exit(1);
  sluice::executor::Service service(settings.service);
  if (spawner != nullptr) std::thread(end_with, spawner->pid()).detach();
  auto served = service.serve();
  if (!served) std::fprintf(stderr, "sluice-executor: %s\n", served.error().message.c_str());
  // Calls that still run have nobody left to answer to.
  std::fflush(stderr);
  _exit(served ? 0 : 1);
}
