// Pipes, event counters and epoll: with them the threads of a runtime wake each other. What waits
// here waits for any change of any of them, and is served anew then.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "executor/vmm/kernel.h"
#include "executor/vmm/watchdog.h"

namespace sluice::vmm {
namespace {

using Kind = Tmpfs::Kind;

// In place of a futex's address; no program can name it.
constexpr uint64_t kAnyChange = 1ull << 63;
constexpr uint32_t kAllBits = 0xffffffff;

static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLHUP == POLLHUP &&
              EPOLLERR == POLLERR);

}  // namespace

int64_t Kernel::wait_for_change(std::optional<int64_t> until_ns, int64_t late_result) {
  Threads& threads = state_.threads.edit();
  // A call that is served again keeps its first time limit.
  Thread& t = threads.current();
  if (t.retry) until_ns = t.retry_until_ns;
  threads.wait(kAnyChange, kAllBits, until_ns, late_result);
  t.retry = true;
  t.retry_until_ns = until_ns;
  t.call = call_;
  waits_ = true;
  return 0;
}

void Kernel::changed() {
  if (state_.threads->count() > 1) {
    state_.threads.edit().wake(kAnyChange, kAllBits, UINT64_MAX);
  }
}

int64_t Kernel::add_descriptor(Kind kind, uint32_t number, int flags, uint64_t options) {
  return state_.files.edit().add({.kind = kind,
                                  .node = number,
                                  .offset = 0,
                                  .flags = flags | static_cast<int>(options & O_NONBLOCK),
                                  .uses = 0},
                                 (options & O_CLOEXEC) != 0);
}

int64_t Kernel::sys_pipe2(const Syscall& c) {
  uint64_t options = c.number == 22 ? 0 : c.args[1];  // pipe(2) has none
  if (options & ~static_cast<uint64_t>(O_CLOEXEC | O_NONBLOCK)) return -EINVAL;
  Pipes& pipes = state_.pipes.edit();
  uint32_t number = Pipes::take(
      pipes.pipes, [](const Pipes::Pipe& p) { return p.readers == 0 && p.writers == 0; });
  int64_t in = add_descriptor(Kind::kPipeEnd, number, O_RDONLY, options);
  if (in < 0) return in;
  int64_t out = add_descriptor(Kind::kPipeStart, number, O_WRONLY, options);
  if (out < 0) {
    state_.files.edit().close(static_cast<uint64_t>(in));
    return out;
  }
  pipes.pipes[number] = {.data = "", .readers = 1, .writers = 1};
  const int32_t fds[] = {static_cast<int32_t>(in), static_cast<int32_t>(out)};
  if (space_.put(c.args[0], fds)) return 0;
  close_fd(static_cast<uint64_t>(in));
  close_fd(static_cast<uint64_t>(out));
  return -EFAULT;
}

int64_t Kernel::sys_eventfd2(const Syscall& c) {
  uint64_t options = c.number == 284 ? 0 : c.args[1];  // eventfd(2) has none
  constexpr uint64_t kKnown = EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE;
  if (options & ~kKnown) return -EINVAL;
  Pipes& pipes = state_.pipes.edit();
  uint32_t number = Pipes::take(pipes.events, [](const Pipes::Event& e) { return !e.used; });
  int64_t fd = add_descriptor(Kind::kEvent, number, O_RDWR, options);
  if (fd < 0) return fd;
  pipes.events[number] = {.used = true,
                          .semaphore = (options & EFD_SEMAPHORE) != 0,
                          .count = static_cast<uint32_t>(c.args[0])};
  return fd;
}

int64_t Kernel::sys_epoll_create1(const Syscall& c) {
  uint64_t options = c.number == 213 ? 0 : c.args[0];  // epoll_create(2)'s is a size
  if (options & ~static_cast<uint64_t>(EPOLL_CLOEXEC)) return -EINVAL;
  Pipes& pipes = state_.pipes.edit();
  uint32_t number = Pipes::take(pipes.epolls, [](const Pipes::Epoll& e) { return !e.used; });
  int64_t fd = add_descriptor(Kind::kEpoll, number, O_RDWR, options);
  if (fd >= 0) pipes.epolls[number] = {.used = true, .watches = {}};
  return fd;
}

void Kernel::close_channel(const FileTable::Description& d) {
  Pipes& pipes = state_.pipes.edit();
  switch (d.kind) {
    case Kind::kPipeEnd:
      pipes.pipes[d.node].readers--;
      break;
    case Kind::kPipeStart:
      pipes.pipes[d.node].writers--;
      break;
    case Kind::kEvent:
      pipes.events[d.node] = {};
      break;
    default:
      pipes.epolls[d.node] = {};
      break;
  }
  changed();
}

// Which of POLLIN, POLLOUT, POLLHUP and POLLERR hold now.
uint32_t Kernel::readiness(const FileTable::Description& d) const {
  switch (d.kind) {
    case Kind::kPipeEnd: {
      const Pipes::Pipe& p = state_.pipes->pipes[d.node];
      return (p.data.empty() ? 0u : POLLIN) | (p.writers == 0 ? POLLHUP : 0u);
    }
    case Kind::kPipeStart: {
      const Pipes::Pipe& p = state_.pipes->pipes[d.node];
      return (p.data.size() < kPipeBytesMax ? POLLOUT : 0u) | (p.readers == 0 ? POLLERR : 0u);
    }
    case Kind::kEvent:
      return (state_.pipes->events[d.node].count > 0 ? POLLIN : 0u) | POLLOUT;
    case Kind::kEpoll:
      return 0;
    default:  // input is all there, and writes never wait
      return POLLIN | POLLOUT;
  }
}

int64_t Kernel::read_channel(const FileTable::Description& d, uint64_t address, uint64_t bytes) {
  if (d.kind == Kind::kPipeEnd) {
    const Pipes::Pipe& now = state_.pipes->pipes[d.node];
    uint64_t count = std::min<uint64_t>(bytes, now.data.size());
    if (count == 0) {
      if (now.writers == 0) return 0;
      return d.flags & O_NONBLOCK ? -EAGAIN : wait_for_change(std::nullopt, 0);
    }
    uint8_t* at = space_.for_write(address, count);
    if (at == nullptr) return -EFAULT;
    std::memcpy(at, now.data.data(), count);
    state_.pipes.edit().pipes[d.node].data.erase(0, count);
    changed();
    return static_cast<int64_t>(count);
  }
  if (d.kind != Kind::kEvent) return -EINVAL;
  Pipes::Event event = state_.pipes->events[d.node];
  if (bytes < sizeof event.count) return -EINVAL;
  if (event.count == 0) return d.flags & O_NONBLOCK ? -EAGAIN : wait_for_change(std::nullopt, 0);
  if (!space_.put(address, event.semaphore ? uint64_t{1} : event.count)) return -EFAULT;
  state_.pipes.edit().events[d.node].count -= event.semaphore ? 1 : event.count;
  changed();
  return sizeof event.count;
}

int64_t Kernel::write_channel(const FileTable::Description& d, std::string_view bytes) {
  if (d.kind == Kind::kPipeStart) {
    const Pipes::Pipe& now = state_.pipes->pipes[d.node];
    if (now.readers == 0) return -EPIPE;
    uint64_t count = std::min<uint64_t>(bytes.size(), kPipeBytesMax - now.data.size());
    if (count == 0) return d.flags & O_NONBLOCK ? -EAGAIN : wait_for_change(std::nullopt, 0);
    state_.pipes.edit().pipes[d.node].data.append(bytes.substr(0, count));
    changed();
    return static_cast<int64_t>(count);
  }
  if (d.kind != Kind::kEvent || bytes.size() < sizeof(uint64_t)) return -EINVAL;
  uint64_t more;
  std::memcpy(&more, bytes.data(), sizeof more);
  uint64_t count = state_.pipes->events[d.node].count;
  if (more == UINT64_MAX) return -EINVAL;
  if (more > UINT64_MAX - 1 - count) {
    return d.flags & O_NONBLOCK ? -EAGAIN : wait_for_change(std::nullopt, 0);
  }
  state_.pipes.edit().events[d.node].count = count + more;
  changed();
  return sizeof more;
}

int64_t Kernel::sys_epoll_ctl(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  const FileTable::Description* of = state_.files->get(c.args[2]);
  if (d == nullptr || of == nullptr) return -EBADF;
  if (d->kind != Kind::kEpoll || of->kind == Kind::kEpoll) return -EINVAL;
  // What is always ready can not be waited for, as regular files on Linux.
  bool waits = of->kind == Kind::kPipeEnd || of->kind == Kind::kPipeStart ||
               of->kind == Kind::kEvent || of->kind == Kind::kInvocation;
  if (!waits) return -EPERM;
  auto& watches = state_.pipes.edit().epolls[d->node].watches;
  auto found = std::ranges::find(watches, c.args[2], &Pipes::Watch::fd);
  if (c.args[1] == EPOLL_CTL_DEL) {
    if (found == watches.end()) return -ENOENT;
    watches.erase(found);
    return 0;
  }
  auto event = space_.get<epoll_event>(c.args[3]);
  if (!event) return -EFAULT;
  Pipes::Watch watch{c.args[2], event->events, event->data.u64};
  switch (c.args[1]) {
    case EPOLL_CTL_ADD:
      if (found != watches.end()) return -EEXIST;
      watches.push_back(watch);
      break;
    case EPOLL_CTL_MOD:
      if (found == watches.end()) return -ENOENT;
      *found = watch;
      break;
    default:
      return -EINVAL;
  }
  changed();
  return 0;
}

int64_t Kernel::sys_epoll_wait(const Syscall& c) {
  const FileTable::Description* d = state_.files->get(c.args[0]);
  if (d == nullptr) return -EBADF;
  uint64_t events_max = std::min<uint64_t>(c.args[2], kPollDescriptorsMax);
  if (d->kind != Kind::kEpoll || static_cast<int32_t>(c.args[2]) <= 0) return -EINVAL;
  uint64_t count = 0;
  for (const Pipes::Watch& watch : state_.pipes->epolls[d->node].watches) {
    const FileTable::Description* of = state_.files->get(watch.fd);
    if (of == nullptr || count == events_max) continue;
    if (of->kind == Kind::kInvocation && (watch.events & EPOLLIN) &&
        lacks_input(InputSource::kInvocation)) {
      return 0;
    }
    uint32_t ready = readiness(*of) & (watch.events | EPOLLHUP | EPOLLERR);
    if (ready == 0) continue;
    epoll_event event{};
    event.events = ready;
    event.data.u64 = watch.data;
    if (!space_.put(c.args[1] + count * sizeof event, event)) return -EFAULT;
    count++;
  }
  auto wait_ms = static_cast<int32_t>(c.args[3]);
  if (count > 0 || wait_ms == 0) return static_cast<int64_t>(count);
  std::optional<int64_t> until;
  if (wait_ms > 0) until = now_ns() + wait_ms * 1'000'000ll;
  return wait_for_change(until, 0);
}

}  // namespace sluice::vmm
