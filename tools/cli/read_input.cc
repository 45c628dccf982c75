#include "tools/cli/read_input.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/text.h"

namespace sluice::cli {

Expected<std::string> read_input(const std::string& path, size_t bytes_max) {
  const bool standard = path == "-";
  const auto failed = [&](int error) {
    return fail(Code::kIo,
                fmt::format("cannot read {}: {}", standard ? "stdin" : path, std::strerror(error)));
  };
  const int fd = standard ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failed(errno);

  std::string content;
  char buffer[64 * 1024];
  ssize_t got = 0;
  while (content.size() <= bytes_max && (got = read(fd, buffer, sizeof buffer)) != 0) {
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) break;
    content.append(buffer, static_cast<size_t>(got));
  }
  const int error = errno;
  if (!standard) close(fd);
  if (got < 0) return failed(error);
  if (content.size() > bytes_max) {
    return fail(Code::kLimit, fmt::format("{} is larger than {}", standard ? "stdin" : path,
                                          human_bytes(bytes_max)));
  }
  return content;
}

}  // namespace sluice::cli
