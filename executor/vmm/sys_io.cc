// Reading, writing, and waiting for descriptors.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/random.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

using Kind = Tmpfs::Kind;

bool readable_mode(int flags) { return (flags & O_ACCMODE) != O_WRONLY; }
bool writable_mode(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }
bool is_stream(Kind kind) {
  return kind == Kind::kStdout || kind == Kind::kStderr || kind == Kind::kInvocation ||
         Tmpfs::is_channel(kind);
}
// Which input a descriptor waits for, if any.
std::optional<InputSource> input_source(Kind kind) {
  if (kind == Kind::kStdin) return InputSource::kStdin;
  if (kind == Kind::kInvocation) return InputSource::kInvocation;
  return std::nullopt;
}

constexpr char kCutMark[] = "\n[log cut here: it reached its limit]\n";

}  // namespace

int64_t Kernel::read_input(uint64_t address, uint64_t bytes, std::optional<uint64_t> offset) {
  if (lacks_input(InputSource::kStdin)) return 0;
  std::span<const uint8_t> input = input_of(InputSource::kStdin);
  uint64_t from = offset.value_or(state_.input_offset);
  if (from >= input.size()) return 0;
  uint64_t count = std::min(bytes, input.size() - from);
  uint8_t* at = space_.for_write(address, count);
  if (at == nullptr) return -EFAULT;
  std::memcpy(at, input.data() + from, count);
  if (!offset) state_.input_offset = from + count;
  return static_cast<int64_t>(count);
}

int64_t Kernel::read_into(uint64_t fd, uint64_t address, uint64_t bytes,
                          std::optional<uint64_t> offset) {
  const FileTable::Description* d = state_.files->get(fd);
  if (d == nullptr || !readable_mode(d->flags)) return -EBADF;
  bytes = std::min(bytes, kTransferBytesMax);
  if (bytes == 0) return 0;
  switch (d->kind) {
    case Kind::kStdin:
      return read_input(address, bytes, offset);
    case Kind::kInvocation:
      return offset ? -ESPIPE : read_invocation(address, bytes);
    case Kind::kPipeEnd:
    case Kind::kEvent:
    case Kind::kEpoll:
      return offset ? -ESPIPE : read_channel(*d, address, bytes);
    case Kind::kNull:
      return 0;
    case Kind::kZero:
    case Kind::kRandom: {
      if (d->kind == Kind::kRandom) bytes = std::min(bytes, kRandomBytesMax);
      uint8_t* at = space_.for_write(address, bytes);
      if (at == nullptr) return -EFAULT;
      if (d->kind == Kind::kZero) {
        std::memset(at, 0, bytes);
      } else {
        fill_random({at, bytes});
      }
      return static_cast<int64_t>(bytes);
    }
    case Kind::kFile: {
      auto data = state_.fs->read(d->node, offset.value_or(d->offset), bytes);
      if (data.empty()) return 0;
      uint8_t* at = space_.for_write(address, data.size());
      if (at == nullptr) return -EFAULT;
      std::memcpy(at, data.data(), data.size());
      if (!offset) state_.files.edit().edit(fd)->offset += data.size();
      return static_cast<int64_t>(data.size());
    }
    case Kind::kDirectory:
      return -EISDIR;
    default:
      return -EBADF;
  }
}

int64_t Kernel::write_output(std::string_view bytes) {
  // Of a program that answers by the function protocol what it prints is its log.
  if (io_.input && io_.source == InputSource::kInvocation) {
    write_log(bytes);
    return static_cast<int64_t>(bytes.size());
  }
  if (bytes.size() > limits_.output_bytes - io_.output.size()) {
    io_.output.append(bytes.substr(0, limits_.output_bytes - io_.output.size()));
    ending_ = {Outcome::kOutputLimit, 0,
               fmt::format("the program wrote more than its output limit of {} bytes to stdout",
                           limits_.output_bytes)};
    return 0;
  }
  io_.output.append(bytes);
  return static_cast<int64_t>(bytes.size());
}

void Kernel::write_log(std::string_view bytes) {
  if (io_.log_cut) return;
  uint64_t room = limits_.log_bytes - io_.log.size();
  io_.log.append(bytes.substr(0, room));
  if (bytes.size() > room) {
    io_.log.append(kCutMark);
    io_.log_cut = true;
  }
}

int64_t Kernel::write_from(uint64_t fd, uint64_t address, uint64_t bytes,
                           std::optional<uint64_t> offset) {
  const FileTable::Description* d = state_.files->get(fd);
  if (d == nullptr || !writable_mode(d->flags)) return -EBADF;
  bytes = std::min(bytes, kTransferBytesMax);
  if (bytes == 0) return 0;
  if (offset && is_stream(d->kind)) return -ESPIPE;
  const uint8_t* at = space_.for_read(address, bytes);
  if (at == nullptr) return -EFAULT;
  std::string_view text(reinterpret_cast<const char*>(at), bytes);
  switch (d->kind) {
    case Kind::kStdout:
      return write_output(text);
    case Kind::kInvocation:
      return write_answer(text);
    case Kind::kPipeStart:
    case Kind::kEvent:
    case Kind::kEpoll:
      return write_channel(*d, text);
    case Kind::kStderr:
      write_log(text);
      return static_cast<int64_t>(bytes);
    case Kind::kNull:
    case Kind::kZero:
    case Kind::kRandom:
      return static_cast<int64_t>(bytes);
    case Kind::kFile: {
      uint64_t to =
          offset.value_or((d->flags & O_APPEND) ? state_.fs->node(d->node).size() : d->offset);
      int64_t written = state_.fs.edit().write(d->node, to, {at, bytes}, realtime_ns());
      if (written > 0 && !offset) {
        state_.files.edit().edit(fd)->offset = to + static_cast<uint64_t>(written);
      }
      return written;
    }
    default:
      return -EBADF;
  }
}

int64_t Kernel::sys_read(const Syscall& c) {
  return read_into(c.args[0], c.args[1], c.args[2], std::nullopt);
}

int64_t Kernel::sys_pread64(const Syscall& c) {
  if (static_cast<int64_t>(c.args[3]) < 0) return -EINVAL;
  return read_into(c.args[0], c.args[1], c.args[2], c.args[3]);
}

int64_t Kernel::sys_write(const Syscall& c) {
  return write_from(c.args[0], c.args[1], c.args[2], std::nullopt);
}

int64_t Kernel::sys_pwrite64(const Syscall& c) {
  if (static_cast<int64_t>(c.args[3]) < 0) return -EINVAL;
  return write_from(c.args[0], c.args[1], c.args[2], c.args[3]);
}

// Copies the list, so that a list which lies in the memory that it names can not change under us.
int64_t Kernel::get_iovecs(uint64_t address, uint64_t count,
                           std::array<Iovec, kIovecsMax>& iovecs) const {
  if (count > kIovecsMax) return -EINVAL;
  const uint8_t* at = space_.for_read(address, count * sizeof(Iovec));
  if (at == nullptr) return -EFAULT;
  std::memcpy(iovecs.data(), at, count * sizeof(Iovec));
  return 0;
}

// Of several parts one has to wait. What went before it counts; without that the call waits.
int64_t Kernel::stop_waiting(int64_t total) {
  if (total == 0) return 0;
  state_.threads.edit().stop_waiting();
  waits_ = false;
  return total;
}

int64_t Kernel::sys_readv(const Syscall& c) {
  std::array<Iovec, kIovecsMax> iovecs;
  if (int64_t error = get_iovecs(c.args[1], c.args[2], iovecs); error < 0) return error;
  int64_t total = 0;
  for (uint64_t i = 0; i < c.args[2]; i++) {
    if (iovecs[i].bytes == 0) continue;
    int64_t got = read_into(c.args[0], iovecs[i].address, iovecs[i].bytes, std::nullopt);
    if (needs_input_) return 0;
    if (waits_) return stop_waiting(total);
    if (got < 0) return total > 0 ? total : got;
    total += got;
    if (static_cast<uint64_t>(got) < iovecs[i].bytes ||
        static_cast<uint64_t>(total) >= kTransferBytesMax) {
      break;
    }
  }
  return total;
}

int64_t Kernel::sys_writev(const Syscall& c) {
  std::array<Iovec, kIovecsMax> iovecs;
  if (int64_t error = get_iovecs(c.args[1], c.args[2], iovecs); error < 0) return error;
  if (state_.files->get(c.args[0]) == nullptr) return -EBADF;
  int64_t total = 0;
  for (uint64_t i = 0; i < c.args[2] && !ending_; i++) {
    if (iovecs[i].bytes == 0) continue;
    int64_t put = write_from(c.args[0], iovecs[i].address, iovecs[i].bytes, std::nullopt);
    if (waits_) return stop_waiting(total);
    if (put < 0) return total > 0 ? total : put;
    total += put;
    if (static_cast<uint64_t>(put) < iovecs[i].bytes ||
        static_cast<uint64_t>(total) >= kTransferBytesMax) {
      break;
    }
  }
  return total;
}

int64_t Kernel::sys_lseek(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  if (is_stream(d->kind)) return -ESPIPE;
  bool input = d->kind == Kind::kStdin;
  auto offset = static_cast<int64_t>(c.args[1]);
  int64_t base = 0;
  switch (c.args[2]) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      base = static_cast<int64_t>(input ? state_.input_offset : d->offset);
      break;
    case SEEK_END:
      if (input && lacks_input(InputSource::kStdin)) return 0;
      if (input) base = static_cast<int64_t>(input_of(InputSource::kStdin).size());
      if (d->kind == Kind::kFile) base = static_cast<int64_t>(state_.fs->node(d->node).size());
      break;
    default:
      return -EINVAL;
  }
  int64_t to;
  if (__builtin_add_overflow(base, offset, &to)) return -EOVERFLOW;
  if (to < 0) return -EINVAL;
  if (input) {
    state_.input_offset = static_cast<uint64_t>(to);
  } else if (static_cast<uint64_t>(to) != d->offset) {
    state_.files.edit().edit(c.args[0])->offset = static_cast<uint64_t>(to);
  }
  return to;
}

int64_t Kernel::sys_ftruncate(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  if (d->kind != Kind::kFile || !writable_mode(d->flags)) return -EINVAL;
  if (static_cast<int64_t>(c.args[1]) < 0) return -EINVAL;
  return state_.fs.edit().truncate(d->node, c.args[1], realtime_ns());
}

int64_t Kernel::sys_ioctl(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  switch (c.args[1]) {
    case FIONREAD: {
      if (d->kind != Kind::kStdin) return -ENOTTY;
      if (lacks_input(InputSource::kStdin)) return 0;
      uint64_t size = input_of(InputSource::kStdin).size();
      uint64_t left = size - std::min(state_.input_offset, size);
      return space_.put(c.args[2], static_cast<int32_t>(std::min<uint64_t>(left, INT32_MAX)))
                 ? 0
                 : -EFAULT;
    }
    case FIOCLEX:
    case FIONCLEX:
      state_.files.edit().set_close_on_exec(c.args[0], c.args[1] == FIOCLEX);
      return 0;
    default:
      return -ENOTTY;  // there is no terminal
  }
}

int64_t Kernel::poll_descriptors(uint64_t address, uint64_t count, std::optional<int64_t> wait_ns) {
  if (count > kPollDescriptorsMax) return -EINVAL;
  std::array<pollfd, kPollDescriptorsMax> fds;
  const uint8_t* at = space_.for_read(address, count * sizeof(pollfd));
  if (at == nullptr && count > 0) return -EFAULT;
  if (count > 0) std::memcpy(fds.data(), at, count * sizeof(pollfd));
  int64_t ready = 0;
  for (uint64_t i = 0; i < count; i++) {
    pollfd& p = fds[i];
    p.revents = 0;
    if (p.fd < 0) continue;
    const FileTable::Description* d = state_.files->get(static_cast<uint64_t>(p.fd));
    if (d == nullptr) {
      p.revents = POLLNVAL;
    } else {
      auto source = input_source(d->kind);
      if (source && (p.events & POLLIN) && lacks_input(*source)) return 0;
      uint32_t now = readiness(*d);
      short possible = static_cast<short>(
          (readable_mode(d->flags) && (now & POLLIN) ? POLLIN | POLLRDNORM : 0) |
          (writable_mode(d->flags) && (now & POLLOUT) ? POLLOUT | POLLWRNORM : 0));
      p.revents = static_cast<short>((p.events & possible) | (now & (POLLHUP | POLLERR)));
    }
    ready += p.revents != 0;
  }
  if (count > 0) {
    uint8_t* to = space_.for_write(address, count * sizeof(pollfd));
    if (to == nullptr) return -EFAULT;
    std::memcpy(to, fds.data(), count * sizeof(pollfd));
  }
  if (ready > 0 || wait_ns == 0) return ready;
  return wait_for_change(wait_ns ? std::optional(now_ns() + *wait_ns) : std::nullopt, 0);
}

int64_t Kernel::sys_poll(const Syscall& c) {
  auto wait_ms = static_cast<int32_t>(c.args[2]);
  std::optional<int64_t> wait_ns;
  if (wait_ms >= 0) wait_ns = wait_ms * 1'000'000ll;
  return poll_descriptors(c.args[0], c.args[1], wait_ns);
}

// A struct timespec at `address`, none where that is 0.
int64_t Kernel::get_wait(uint64_t address, std::optional<int64_t>& wait_ns) const {
  if (address == 0) return 0;
  auto t = space_.get<timespec>(address);
  if (!t) return -EFAULT;
  if (t->tv_sec < 0 || t->tv_nsec < 0 || t->tv_nsec >= 1'000'000'000) return -EINVAL;
  wait_ns = std::min<int64_t>(t->tv_sec, kTimeoutMsMax) * 1'000'000'000ll + t->tv_nsec;
  return 0;
}

int64_t Kernel::sys_ppoll(const Syscall& c) {
  std::optional<int64_t> wait_ns;
  if (int64_t error = get_wait(c.args[2], wait_ns); error < 0) return error;
  return poll_descriptors(c.args[0], c.args[1], wait_ns);
}

int64_t Kernel::sys_select(const Syscall& c) {
  std::optional<int64_t> wait_ns;
  if (c.args[4] != 0) {
    auto t = space_.get<timeval>(c.args[4]);
    if (!t) return -EFAULT;
    if (t->tv_sec < 0 || t->tv_usec < 0 || t->tv_usec >= 1'000'000) return -EINVAL;
    wait_ns = std::min<int64_t>(t->tv_sec, kTimeoutMsMax) * 1'000'000'000ll + t->tv_usec * 1000;
  }
  return select_descriptors(c, wait_ns);
}

int64_t Kernel::sys_pselect6(const Syscall& c) {
  std::optional<int64_t> wait_ns;
  if (int64_t error = get_wait(c.args[4], wait_ns); error < 0) return error;
  return select_descriptors(c, wait_ns);
}

int64_t Kernel::select_descriptors(const Syscall& c, std::optional<int64_t> wait_ns) {
  uint64_t count = c.args[0];
  if (count > FD_SETSIZE) return -EINVAL;
  uint64_t bytes = (count + 63) / 64 * 8;
  int64_t ready = 0;
  std::array<fd_set, 3> sets{};
  for (int s = 0; s < 3; s++) {
    if (c.args[1 + s] == 0) continue;
    const uint8_t* at = space_.for_read(c.args[1 + s], bytes);
    if (at == nullptr) return -EFAULT;
    std::memcpy(&sets[s], at, bytes);
    for (uint64_t fd = 0; fd < count; fd++) {
      if (!FD_ISSET(fd, &sets[s])) continue;
      const FileTable::Description* d = state_.files->get(fd);
      if (d == nullptr) return -EBADF;
      auto source = input_source(d->kind);
      if (s == 0 && source && lacks_input(*source)) return 0;
      uint32_t possible = readiness(*d);
      bool now = (s == 0 && readable_mode(d->flags) && (possible & (POLLIN | POLLHUP))) ||
                 (s == 1 && writable_mode(d->flags) && (possible & (POLLOUT | POLLERR)));
      if (!now) FD_CLR(fd, &sets[s]);
      ready += now;
    }
  }
  for (int s = 0; s < 3; s++) {
    if (c.args[1 + s] == 0) continue;
    uint8_t* to = space_.for_write(c.args[1 + s], bytes);
    if (to == nullptr) return -EFAULT;
    std::memcpy(to, &sets[s], bytes);
  }
  if (ready > 0 || wait_ns == 0) return ready;
  return wait_for_change(wait_ns ? std::optional(now_ns() + *wait_ns) : std::nullopt, 0);
}

}  // namespace sluice::vmm
