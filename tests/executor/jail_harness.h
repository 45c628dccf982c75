#pragma once

#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "executor/jail/jail.h"

// Children of the test that enter the jail and then do what they are told.
namespace sluice::executor::jail {

// As whom a child enters.
enum class As {
  kRoot,             // all of root's capabilities
  kContainerRoot,    // root without CAP_SYS_ADMIN
  kUser,             // an ordinary user on a kernel with user namespaces
  kUserNoNamespace,  // the same where unshare is refused
};
const char* name_of(As as);
// Those that this test process can be: only root can become any.
std::vector<As> identities();

class Prisoner {
 public:
  // In the child: become `as`, do `before`, enter the jail, do `crime` with its socket (-1 where
  // the jail could not be entered), end with status 0. It is ended by a signal after ten seconds.
  Prisoner(
      As as, std::function<void(int socket)> crime, std::function<void()> before = [] {});
  ~Prisoner();
  Prisoner(const Prisoner&) = delete;
  Prisoner& operator=(const Prisoner&) = delete;

  // What could not be had, separated by "; ", or "error: " and the message. Waits for it.
  const std::string& missing();
  // Waits for what the crime has sent, or its end (empty).
  std::string receive();
  // How it ended: "exit 0", "signal 31". Waits for it.
  std::string end();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
  int socket_;
  bool entered_ = false;
  bool ended_ = false;
  std::string missing_;
};

// Sends through the only system call that is left for it.
void send_text(int socket, const std::string& text);

// Has a system call fail with this errno from now on, as an older or stricter kernel would.
void refuse_system_call(int number, int error);

}  // namespace sluice::executor::jail
