// The floor under a broker: what its messages cost if nothing is done with them but to read them
// from a socket, to append them to a log that is synced, and to write them to another socket.
//
//   bare_relay [--directory DIR] [--count N] [--size BYTES] [--reads BYTES]
//
// One process sends, one relays and one takes, over loopback TCP. What has been read at once
// (--reads at most) is one write and one fdatasync. The CPU time is the relay's alone.

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr size_t kSenderBytes = 64 << 10;
constexpr off_t kLogBytes = 16 << 20;  // a log's room, taken ahead; then the next one

void require(bool holds, const char* doing) {
  if (holds) return;
  std::fprintf(stderr, "bare_relay: %s: %s\n", doing, std::strerror(errno));
  std::exit(1);
}

// Two ends of a loopback connection.
std::pair<int, int> connection() {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  require(bind(listener, generic, size) == 0 && listen(listener, 1) == 0 &&
              getsockname(listener, generic, &size) == 0,
          "listening");
  int near = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(connect(near, generic, size) == 0, "connecting");
  int far = accept(listener, nullptr, nullptr);
  require(far >= 0, "accepting");
  close(listener);
  int on = 1;
  for (int fd : {near, far}) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {near, far};
}

void write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    ssize_t written = write(fd, data, size);
    require(written > 0, "writing");
    data += written;
    size -= static_cast<size_t>(written);
  }
}

// Runs `work` in a process of its own, which keeps nothing but `fd`.
template <typename Work>
pid_t start(int fd, std::initializer_list<int> others, Work work) {
  pid_t pid = fork();
  require(pid >= 0, "fork");
  if (pid > 0) {
    close(fd);
    return pid;
  }
  for (int other : others) close(other);
  work();
  _exit(0);
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

class Log {
 public:
  explicit Log(std::string path) : path_(std::move(path)) { next(); }
  ~Log() {
    close(fd_);
    unlink(path_.c_str());
  }
  void append(const char* data, size_t size) {
    if (bytes_ + static_cast<off_t>(size) > kLogBytes) {
      close(fd_);
      next();
    }
    write_all(fd_, data, size);
    require(fdatasync(fd_) == 0, "fdatasync");
    bytes_ += static_cast<off_t>(size);
  }

 private:
  void next() {
    fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    require(fd_ >= 0, path_.c_str());
    require(fallocate(fd_, 0, 0, kLogBytes) == 0, "fallocate");
    bytes_ = 0;
  }

  std::string path_;
  int fd_ = -1;
  off_t bytes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The CPU time of read, append and sync, write");
  std::string directory = ".";
  size_t count = 3'000'000, size = 320, reads = 256 << 10;
  app.add_option("--directory", directory, "where the log lies");
  app.add_option("--count", count, "messages");
  app.add_option("--size", size, "bytes a message, frames included");
  app.add_option("--reads", reads, "bytes read, written and synced at once, at most");
  CLI11_PARSE(app, argc, argv);

  auto [in, source] = connection();
  auto [out, sink] = connection();
  const size_t total = count * size;
  start(source, {in, out, sink}, [&, fd = source] {
    std::vector<char> bytes(kSenderBytes, 'a');
    for (size_t left = total; left > 0; left -= std::min(left, bytes.size())) {
      write_all(fd, bytes.data(), std::min(left, bytes.size()));
    }
  });
  start(sink, {in, out}, [fd = sink] {
    std::vector<char> bytes(kSenderBytes);
    while (read(fd, bytes.data(), bytes.size()) > 0) continue;
  });

  Log log(directory + "/bare_relay.log");
  std::vector<char> bytes(reads);
  size_t syncs = 0;
  for (size_t relayed = 0; relayed < total; ++syncs) {
    ssize_t got = read(in, bytes.data(), bytes.size());
    require(got > 0, "reading");
    log.append(bytes.data(), static_cast<size_t>(got));
    write_all(out, bytes.data(), static_cast<size_t>(got));
    relayed += static_cast<size_t>(got);
  }
  close(out);
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  while (wait(nullptr) > 0) continue;
  std::printf("%.3f us of CPU time a message (%.0f%% of it in the kernel), %.0f messages a sync\n",
              (seconds(used.ru_utime) + seconds(used.ru_stime)) * 1e6 / static_cast<double>(count),
              100 * seconds(used.ru_stime) / (seconds(used.ru_utime) + seconds(used.ru_stime)),
              static_cast<double>(count) / static_cast<double>(syncs));
}
