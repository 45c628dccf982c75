#include "tools/cli/reachable.h"

#include <cctype>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/cli/limits.h"

namespace sluice::cli {
namespace {

// errno's value for a connection attempt, 0 where it succeeded.
int connect_error(const addrinfo& address) {
  const int fd = socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  int error = 0;
  if (connect(fd, address.ai_addr, address.ai_addrlen) != 0) {
    error = errno;
    if (error == EINPROGRESS) {
      pollfd writable{fd, POLLOUT, 0};
      socklen_t size = sizeof error;
      if (poll(&writable, 1, kConnectTimeoutMs) <= 0) {
        error = ETIMEDOUT;
      } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
        error = errno;
      }
    }
  }
  close(fd);
  return error;
}

}  // namespace

std::string why_unreachable(const Url& url) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* addresses = nullptr;
  const int failed =
      getaddrinfo(url.host.c_str(), std::to_string(url.port).c_str(), &hints, &addresses);
  if (failed != 0) return gai_strerror(failed);
  int error = 0;
  for (const addrinfo* address = addresses; address != nullptr; address = address->ai_next) {
    error = connect_error(*address);
    if (error == 0) break;
  }
  freeaddrinfo(addresses);
  if (error == 0) return "";
  std::string why = std::strerror(error);
  why[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(why[0])));
  return why;
}

std::string cannot_reach(const Url& url, std::string_view scheme) {
  const std::string why = why_unreachable(url);
  if (why.empty()) {
    return fmt::format("something answers at {}://{}, but not as a broker does", scheme,
                       url.endpoint());
  }
  return fmt::format("cannot reach the broker at {}://{}: {}; is sluiced running?", scheme,
                     url.endpoint(), why);
}

}  // namespace sluice::cli
