#include "tools/cli/write_file.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::cli {
namespace {

// errno's value, 0 where all of it was written.
int write_all(const std::string& path, std::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return errno;
  int error = 0;
  while (!bytes.empty() && error == 0) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (close(fd) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace

Expected<> write_file(const std::string& path, std::string_view bytes) {
  struct stat status {};
  const bool special = stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
  const std::string partial = special ? path : path + ".part";
  int error = write_all(partial, bytes);
  if (error == 0 && !special && rename(partial.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  if (!special) unlink(partial.c_str());
  return fail(Code::kIo, fmt::format("cannot write '{}': {}", path, std::strerror(error)));
}

}  // namespace sluice::cli
