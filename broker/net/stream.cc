#include "broker/net/stream.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/check.h"

namespace sluice::net {

namespace {

// One read buffer for all streams of a thread: input is consumed before the next read.
constexpr size_t kReadBufferBytes = 256 << 10;
thread_local std::array<uint8_t, kReadBufferBytes> read_buffer;

// The start of a frame that was kept is put in front of what is read next, so that the frames
// behind it are handed over where they were read. What is longer than this is not moved at each
// read: its end may come byte by byte.
constexpr size_t kKeptInFrontMax = 32 << 10;

// A buffer that grew beyond this is given back when it is empty.
constexpr size_t kKeepCapacityBytes = 1 << 20;

// How long a closed stream's peer may take to read the last output and to close its end.
constexpr uint64_t kLingerMs = 5'000;

std::string address_text(const sockaddr_storage& address, uint16_t* port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    uv_ip6_name(&in6, text, sizeof text);
    *port = ntohs(in6.sin6_port);
  } else if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    uv_ip4_name(&in, text, sizeof text);
    *port = ntohs(in.sin_port);
  }
  return text;
}

}  // namespace

// What libuv holds: freed when it has called back for both handles. The Stream may be gone by then.
struct Stream::Shared {
  union {
    uv_tcp_t tcp;
    uv_pipe_t pipe;
    uv_stream_t stream;
    uv_handle_t handle;
  };
  Stream* owner = nullptr;
  uv_write_t write;
  std::string writing;  // what the kernel is taking
  bool write_pending = false;
  bool closing = false;
  // Only for the time between close() and the peer's end.
  uv_timer_t linger;
  bool lingers = false;
  uv_write_t last_write;
  std::string last;
  uv_shutdown_t shutdown;
  bool all_sent = false;
  bool peer_ended = false;

  void close_handle() {
    if (closing) return;
    closing = true;
    if (!lingers) {
      close_stream();
      return;
    }
    uv_close(reinterpret_cast<uv_handle_t*>(&linger),
             [](uv_handle_t* h) { static_cast<Shared*>(h->data)->close_stream(); });
  }
  void close_stream() {
    uv_close(&handle, [](uv_handle_t* h) { delete static_cast<Shared*>(h->data); });
  }

  // Sends `rest` behind what is being written, and our end; closes when the peer's end has come,
  // too. A socket closed before that answers what the peer still sends with a reset, which may
  // take our last output from the peer.
  void finish(std::string rest) {
    CHECK(uv_timer_init(handle.loop, &linger) == 0);
    linger.data = this;
    lingers = true;
    uv_timer_start(
        &linger, [](uv_timer_t* t) { static_cast<Shared*>(t->data)->close_handle(); }, kLingerMs,
        0);
    if (!rest.empty()) {
      last = std::move(rest);
      uv_buf_t buffer = uv_buf_init(last.data(), static_cast<unsigned>(last.size()));
      if (uv_write(&last_write, &stream, &buffer, 1, nullptr) != 0) return close_handle();
    }
    // Behind all writes.
    shutdown.data = this;
    int status = uv_shutdown(&shutdown, &stream, [](uv_shutdown_t* request, int result) {
      auto* shared = static_cast<Shared*>(request->data);
      shared->all_sent = true;
      if (result != 0 || shared->peer_ended) shared->close_handle();
    });
    if (status != 0 || !read_start()) close_handle();
  }

  // Of a stream that is not closed to its owner, else to nobody. False where it can not be read.
  bool read_start() {
    int status = uv_read_start(
        &stream,
        [](uv_handle_t* read, size_t, uv_buf_t* buffer) {
          auto* shared = static_cast<Shared*>(read->data);
          size_t front = shared->owner != nullptr ? shared->owner->put_kept_in_front() : 0;
          *buffer = uv_buf_init(reinterpret_cast<char*>(read_buffer.data()) + front,
                                static_cast<unsigned>(read_buffer.size() - front));
        },
        [](uv_stream_t* read, ssize_t count, const uv_buf_t* buffer) {
          auto* shared = static_cast<Shared*>(read->data);
          if (count == 0) return;
          if (shared->owner == nullptr) {
            if (count < 0) shared->read_ended(count == UV_EOF);
          } else if (count < 0) {
            shared->owner->end(count == UV_EOF ? "closed by the peer"
                                               : uv_strerror(static_cast<int>(count)));
          } else {
            shared->owner->received(
                {reinterpret_cast<const uint8_t*>(buffer->base), static_cast<size_t>(count)});
          }
        });
    return status == 0 || status == UV_EALREADY;
  }

  void read_ended(bool in_order) {
    peer_ended = true;
    if (all_sent || !in_order) close_handle();
  }
};

void FlushList::remove(Stream* stream) {
  std::ranges::replace(streams_, stream, static_cast<Stream*>(nullptr));
}

void FlushList::flush() {
  // Flushing may touch further streams: they are appended and flushed in the same pass.
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i] != nullptr) streams_[i]->flush();
  }
  streams_.clear();
}

Stream::Stream(FlushList& flushes) : flushes_(flushes), shared_(new Shared) {
  shared_->owner = this;
}

Expected<std::unique_ptr<Stream>> Stream::adopt_tcp(uv_loop_t* loop, int fd, FlushList& flushes) {
  std::unique_ptr<Stream> stream(new Stream(flushes));
  Shared* shared = stream->shared_;
  CHECK(uv_tcp_init(loop, &shared->tcp) == 0);
  shared->handle.data = shared;
  if (int status = uv_tcp_open(&shared->tcp, fd); status != 0) {
    ::close(fd);
    return fail(Code::kIo, uv_strerror(status));
  }
  uv_tcp_nodelay(&shared->tcp, 1);
  sockaddr_storage address{};
  int length = sizeof address;
  uint16_t port = 0;
  if (uv_tcp_getpeername(&shared->tcp, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    stream->peer_ = address_text(address, &port);
    stream->peer_ += ":" + std::to_string(port);
  }
  return stream;
}

Expected<std::unique_ptr<Stream>> Stream::adopt_unix(uv_loop_t* loop, int fd, FlushList& flushes) {
  std::unique_ptr<Stream> stream(new Stream(flushes));
  Shared* shared = stream->shared_;
  CHECK(uv_pipe_init(loop, &shared->pipe, 0) == 0);
  shared->handle.data = shared;
  if (int status = uv_pipe_open(&shared->pipe, fd); status != 0) {
    return fail(Code::kIo, uv_strerror(status));
  }
  return stream;
}

Stream::~Stream() {
  if (touched_) flushes_.remove(this);
  if (shared_ == nullptr) return;
  shared_->owner = nullptr;
  shared_->close_handle();
}

void Stream::start(Events events) {
  events_ = std::move(events);
  read_on();
}

void Stream::read_on() {
  if (!shared_->read_start()) end("it can not be read");
}

size_t Stream::put_kept_in_front() {
  if (paused_ || kept_.size() > kKeptInFrontMax) return 0;
  std::ranges::copy(kept_, read_buffer.data());
  return kept_.size();
}

size_t Stream::hand_over(std::span<const uint8_t> bytes) {
  size_t taken = 0;
  do {  // again where the receiver paused and resumed within one call
    resumed_ = false;
    delivering_ = true;
    taken += events_.on_data(bytes.subspan(taken));
    delivering_ = false;
    CHECK(taken <= bytes.size());
  } while (resumed_ && !paused_ && !closed() && taken < bytes.size());
  return taken;
}

void Stream::received(std::span<const uint8_t> bytes) {
  if (auto front = static_cast<size_t>(bytes.data() - read_buffer.data()); front > 0) {
    CHECK(front == kept_.size());
    bytes = {read_buffer.data(), front + bytes.size()};
    kept_.clear();
  }
  if (!kept_.empty() || paused_) {
    kept_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    hand_over_kept();
    return;
  }
  size_t taken = hand_over(bytes);
  if (closed()) return;
  kept_.assign(reinterpret_cast<const char*>(bytes.data()) + taken, bytes.size() - taken);
}

void Stream::hand_over_kept() {
  if (paused_ || closed() || kept_.empty()) return;
  size_t taken = hand_over({reinterpret_cast<const uint8_t*>(kept_.data()), kept_.size()});
  if (closed()) return;
  kept_.erase(0, taken);
  if (kept_.empty() && kept_.capacity() > kKeepCapacityBytes) std::string().swap(kept_);
}

void Stream::touch() {
  if (touched_ || closed()) return;
  touched_ = true;
  flushes_.add(this);
}

size_t Stream::unsent_bytes() const {
  return out_.size() + (shared_ != nullptr ? shared_->writing.size() : 0);
}

void Stream::flush() {
  touched_ = false;
  if (closed() || out_.empty() || shared_->write_pending) return;
  uv_buf_t buffer = uv_buf_init(out_.data(), static_cast<unsigned>(out_.size()));
  int written = uv_try_write(&shared_->stream, &buffer, 1);
  if (written < 0 && written != UV_EAGAIN) {
    end(uv_strerror(written));
    return;
  }
  size_t sent = written > 0 ? static_cast<size_t>(written) : 0;
  if (sent == out_.size()) {
    out_.clear();
    if (out_.capacity() > kKeepCapacityBytes) std::string().swap(out_);
    if (events_.on_drained) events_.on_drained();
    return;
  }
  shared_->writing.assign(out_, sent);
  out_.clear();
  buffer = uv_buf_init(shared_->writing.data(), static_cast<unsigned>(shared_->writing.size()));
  shared_->write.data = shared_;
  shared_->write_pending = true;
  int status =
      uv_write(&shared_->write, &shared_->stream, &buffer, 1, [](uv_write_t* request, int result) {
        auto* shared = static_cast<Shared*>(request->data);
        shared->write_pending = false;
        if (shared->owner != nullptr) shared->owner->write_done(result);
      });
  if (status != 0) end(uv_strerror(status));
}

void Stream::write_done(int status) {
  std::string().swap(shared_->writing);
  if (status < 0) {
    if (status != UV_ECANCELED) end(uv_strerror(status));
    return;
  }
  if (out_.empty()) {
    if (events_.on_drained) events_.on_drained();
  } else {
    flush();
  }
}

void Stream::pause() {
  if (paused_ || closed()) return;
  paused_ = true;
  uv_read_stop(&shared_->stream);
}

void Stream::resume() {
  if (!paused_ || closed()) return;
  paused_ = false;
  if (delivering_) {
    resumed_ = true;
  } else {
    hand_over_kept();
  }
  if (!paused_ && !closed()) read_on();
}

void Stream::end(std::string_view reason) {
  if (closed()) return;
  auto on_end = std::move(events_.on_end);
  Shared* shared = std::exchange(shared_, nullptr);
  shared->owner = nullptr;
  shared->close_handle();
  if (on_end) on_end(reason);
}

void Stream::close() {
  if (closed()) return;
  if (!shared_->write_pending) flush();
  if (closed()) return;
  Shared* shared = std::exchange(shared_, nullptr);
  shared->owner = nullptr;
  shared->finish(std::move(out_));
}

struct Listener::State {
  uv_tcp_t tcp;
  std::function<void(int)> on_connection;

  // libuv accepts into a handle of the listener's loop; a copy of its socket can go to any.
  void accept() {
    auto* handle = new uv_tcp_t;
    CHECK(uv_tcp_init(tcp.loop, handle) == 0);
    uv_os_fd_t fd = -1;
    int copy = -1;
    if (uv_accept(reinterpret_cast<uv_stream_t*>(&tcp), reinterpret_cast<uv_stream_t*>(handle)) ==
            0 &&
        uv_fileno(reinterpret_cast<uv_handle_t*>(handle), &fd) == 0) {
      copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    uv_close(reinterpret_cast<uv_handle_t*>(handle),
             [](uv_handle_t* closed) { delete reinterpret_cast<uv_tcp_t*>(closed); });
    if (copy >= 0) on_connection(copy);
  }
};

Expected<std::unique_ptr<Listener>> Listener::tcp(uv_loop_t* loop, const std::string& host,
                                                  uint16_t port,
                                                  std::function<void(int)> on_connection) {
  std::unique_ptr<Listener> listener(new Listener);
  auto* state = listener->state_ = new State;
  state->on_connection = std::move(on_connection);
  CHECK(uv_tcp_init(loop, &state->tcp) == 0);
  state->tcp.data = state;
  sockaddr_storage address{};
  auto refuse = [&](std::string_view why) {
    return fail(Code::kIo,
                "cannot listen on " + host + ":" + std::to_string(port) + ": " + std::string(why));
  };
  if (uv_ip4_addr(host.c_str(), port, reinterpret_cast<sockaddr_in*>(&address)) != 0 &&
      uv_ip6_addr(host.c_str(), port, reinterpret_cast<sockaddr_in6*>(&address)) != 0) {
    return refuse("not an IPv4 or IPv6 address");
  }
  if (int s = uv_tcp_bind(&state->tcp, reinterpret_cast<sockaddr*>(&address), 0); s != 0) {
    return refuse(uv_strerror(s));
  }
  int status = uv_listen(reinterpret_cast<uv_stream_t*>(&state->tcp), 511,
                         [](uv_stream_t* server, int result) {
                           if (result == 0) static_cast<State*>(server->data)->accept();
                         });
  if (status != 0) return refuse(uv_strerror(status));
  int length = sizeof address;
  uv_tcp_getsockname(&state->tcp, reinterpret_cast<sockaddr*>(&address), &length);
  listener->host_ = address_text(address, &listener->port_);
  return listener;
}

Listener::~Listener() {
  if (state_ == nullptr) return;
  uv_close(reinterpret_cast<uv_handle_t*>(&state_->tcp),
           [](uv_handle_t* handle) { delete static_cast<State*>(handle->data); });
}

}  // namespace sluice::net
