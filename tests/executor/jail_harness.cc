#include "tests/executor/jail_harness.h"

#include <csignal>
#include <cstdlib>

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

namespace sluice::executor::jail {
namespace {

constexpr uid_t kOrdinaryUser = 12345;
constexpr unsigned kPatienceSeconds = 10;

void drop_capability(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  CHECK(syscall(SYS_capget, &header, sets) == 0);
  uint32_t bit = 1u << (capability % 32);
  sets[capability / 32].effective &= ~bit;
  sets[capability / 32].permitted &= ~bit;
  CHECK(syscall(SYS_capset, &header, sets) == 0);
}

void turn_into(As as) {
  if (as == As::kContainerRoot) drop_capability(CAP_SYS_ADMIN);
  gid_t group = kOrdinaryUser + 1;
  if (geteuid() == 0) CHECK(setgroups(1, &group) == 0);
  if ((as == As::kUser || as == As::kUserNoNamespace) && geteuid() == 0) {
    CHECK(setresgid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) == 0);
    CHECK(setresuid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) == 0);
  }
  if (as == As::kUserNoNamespace) refuse_system_call(SCMP_SYS(unshare), EPERM);
}

}  // namespace

const char* name_of(As as) {
  switch (as) {
    case As::kRoot:
      return "root";
    case As::kContainerRoot:
      return "container_root";
    case As::kUser:
      return "user";
    default:
      return "user_without_namespaces";
  }
}

std::vector<As> identities() {
  if (geteuid() != 0) return {As::kUser, As::kUserNoNamespace};
  return {As::kRoot, As::kContainerRoot, As::kUser, As::kUserNoNamespace};
}

Prisoner::Prisoner(As as, std::function<void(int)> crime, std::function<void()> before) {
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
  pid_ = fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) {
    alarm(kPatienceSeconds);
    close(sockets[0]);
    turn_into(as);
    before();
    auto missing = enter({.socket_fd = sockets[1]});
    std::string text;
    if (!missing) {
      text = "error: " + missing.error().message;
    } else {
      for (const std::string& clause : *missing) text += (text.empty() ? "" : "; ") + clause;
    }
    send_text(sockets[1], "!" + text);
    crime(missing ? sockets[1] : -1);
    _exit(0);
  }
  close(sockets[1]);
  socket_ = sockets[0];
}

Prisoner::~Prisoner() {
  if (!ended_) {
    kill(pid_, SIGKILL);
    end();
  }
  close(socket_);
}

const std::string& Prisoner::missing() {
  if (!entered_) {
    entered_ = true;
    missing_ = receive();
    missing_ = missing_.empty() ? "error: ended in the doorway" : missing_.substr(1);
  }
  return missing_;
}

std::string Prisoner::receive() {
  char text[4096];
  ssize_t got = recv(socket_, text, sizeof text, 0);
  return got > 0 ? std::string(text, static_cast<size_t>(got)) : "";
}

std::string Prisoner::end() {
  int status = 0;
  CHECK(waitpid(pid_, &status, 0) == pid_);
  ended_ = true;
  return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                             : "exit " + std::to_string(WEXITSTATUS(status));
}

void send_text(int socket, const std::string& text) {
  iovec part = {const_cast<char*>(text.data()), text.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  sendmsg(socket, &message, MSG_NOSIGNAL);
}

void refuse_system_call(int number, int error) {
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  CHECK(filter != nullptr);
  // Without no_new_privs, which is the jail's own to set.
  if (geteuid() == 0) seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
  CHECK(seccomp_rule_add(filter, SCMP_ACT_ERRNO(static_cast<uint32_t>(error)), number, 0) == 0);
  CHECK(seccomp_load(filter) == 0);
  seccomp_release(filter);
}

}  // namespace sluice::executor::jail
