#include "executor/process/wire.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "executor/process/limits.h"

namespace sluice::process {
namespace {

constexpr size_t kDescriptorsMax = 8;

union Control {
  cmsghdr header;
  char room[CMSG_SPACE(kDescriptorsMax * sizeof(int))];
};

class Writer {
 public:
  void number(uint64_t value) { out_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void text(const std::string& value) {
    number(value.size());
    out_ += value;
  }
  void texts(const std::vector<std::string>& values) {
    number(values.size());
    for (const auto& value : values) text(value);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class Reader {
 public:
  explicit Reader(std::span<const char> in) : in_(in) {}

  template <typename T>
  void number(T& to) {
    uint64_t value = 0;
    if (in_.size() < sizeof value) {
      good_ = false;
      return;
    }
    std::memcpy(&value, in_.data(), sizeof value);
    in_ = in_.subspan(sizeof value);
    to = static_cast<T>(value);
  }
  void text(std::string& to) {
    uint64_t size = 0;
    number(size);
    if (size > in_.size()) good_ = false;
    if (!good_) return;
    to.assign(in_.data(), size);
    in_ = in_.subspan(size);
  }
  void texts(std::vector<std::string>& to) {
    uint64_t count = 0;
    number(count);
    for (uint64_t i = 0; good_ && i < count; i++) text(to.emplace_back());
  }
  bool complete() const { return good_ && in_.empty(); }

 private:
  std::span<const char> in_;
  bool good_ = true;
};

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() {
  int fd = fd_;
  fd_ = -1;
  return fd;
}

void Fd::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Expected<void> send_packet(int socket, const void* value, size_t bytes, std::span<const int> fds) {
  iovec part{const_cast<void*>(value), bytes};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty() && fds.size() <= kDescriptorsMax) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(bytes)) return {};
  bool gone = errno == EPIPE || errno == ECONNRESET;
  return fail(gone ? Code::kUnavailable : Code::kIo,
              fmt::format("the other side could not be told: {}", std::strerror(errno)));
}

bool receive_packet(int socket, void* value, size_t bytes, std::vector<Fd>& fds, int flags) {
  iovec part{value, bytes};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    // The other side closed it with something from here unread. That is told once, and before what
    // it had sent.
  } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
  if (got < 0) return false;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + CMSG_LEN(sizeof(int)) <= h->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(h) + at, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return got == static_cast<ssize_t>(bytes) && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
}

Expected<Pair> make_pair(int type) {
  int ends[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail(Code::kUnavailable,
                fmt::format("no pair of sockets could be made: {}", std::strerror(errno)));
  }
  return Pair{Fd(ends[0]), Fd(ends[1])};
}

std::string encode(const Config& config) {
  Writer out;
  const executor::Limits& l = config.limits;
  for (uint64_t value :
       {l.memory_bytes, uint64_t{l.timeout_ms}, uint64_t{l.cpu_ms}, uint64_t{l.output_bytes},
        uint64_t{l.log_bytes}, uint64_t{l.open_files}, uint64_t{l.threads}, l.tmpfs_bytes}) {
    out.number(value);
  }
  out.text(config.name);
  out.text(config.image_path);
  out.texts(config.args);
  out.texts(config.env);
  return out.take();
}

std::optional<Config> decode(std::span<const char> bytes) {
  Config config;
  Reader in(bytes);
  executor::Limits& l = config.limits;
  in.number(l.memory_bytes);
  in.number(l.timeout_ms);
  in.number(l.cpu_ms);
  in.number(l.output_bytes);
  in.number(l.log_bytes);
  in.number(l.open_files);
  in.number(l.threads);
  in.number(l.tmpfs_bytes);
  in.text(config.name);
  in.text(config.image_path);
  in.texts(config.args);
  in.texts(config.env);
  if (!in.complete()) return std::nullopt;
  return config;
}

Expected<Fd> sealed_file(const char* name, std::span<const uint8_t> bytes) {
  auto refused = [] {
    return fail(Code::kUnavailable,
                fmt::format("no memory file could be made: {}", std::strerror(errno)));
  };
  Fd file(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) return refused();
  for (size_t done = 0; done < bytes.size();) {
    ssize_t put = write(file.get(), bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return refused();
    done += static_cast<size_t>(put);
  }
  // Programs are executed from it: a mode that lets another user do so.
  if (fchmod(file.get(), 0555) != 0 ||
      fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) !=
          0) {
    return refused();
  }
  lseek(file.get(), 0, SEEK_SET);
  return file;
}

}  // namespace sluice::process
