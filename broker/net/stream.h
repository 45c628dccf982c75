#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <uv.h>

#include "base/error.h"

namespace sluice::net {

class Stream;

// Streams with output to send at the end of this turn. One per loop.
class FlushList {
 public:
  void add(Stream* stream) { streams_.push_back(stream); }
  bool empty() const { return streams_.empty(); }
  void remove(Stream* stream);
  void flush();

 private:
  std::vector<Stream*> streams_;
};

// A connected byte stream (TCP or a unix socket) on the loop's thread. Output gathers in out() and
// goes to the kernel in one write at the end of the turn. Input is handed over in place; what the
// receiver does not take is kept and comes again in front of what follows.
//
// Lifetime: the owner deletes it whenever it likes, except inside on_data (where it calls close()
// and deletes later). After close() neither callback is called any more.
class Stream {
 public:
  struct Events {
    // Returns how many of the bytes were taken. May call close() and pause().
    std::function<size_t(std::span<const uint8_t>)> on_data;
    // The peer closed or the stream failed (the reason). Not called for our own close().
    std::function<void(std::string_view reason)> on_end;
    // All output is with the kernel.
    std::function<void()> on_drained;
  };

  // Take over a connected socket.
  static Expected<std::unique_ptr<Stream>> adopt_tcp(uv_loop_t* loop, int fd, FlushList& flushes);
  static Expected<std::unique_ptr<Stream>> adopt_unix(uv_loop_t* loop, int fd, FlushList& flushes);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void start(Events events);
  // Where output is appended; call touch() after.
  std::string& out() { return out_; }
  void touch();
  // Bytes that the kernel has not taken yet.
  size_t unsent_bytes() const;
  void pause();
  // Hands kept input over again, and reads on.
  void resume();
  bool paused() const { return paused_; }
  // Hands over no more input, sends what is there and then our end, and closes when the peer's end
  // has come, too; a peer that does not read or close is cut off after a few seconds.
  void close();
  bool closed() const { return shared_ == nullptr; }
  void flush();
  const std::string& peer() const { return peer_; }

 private:
  struct Shared;  // outlives the Stream while libuv holds its handles
  explicit Stream(FlushList& flushes);
  void received(std::span<const uint8_t> bytes);
  // Returns how many bytes it put at the start of the read buffer.
  size_t put_kept_in_front();
  size_t hand_over(std::span<const uint8_t> bytes);
  void hand_over_kept();
  void write_done(int status);
  void end(std::string_view reason);
  void read_on();

  FlushList& flushes_;
  Shared* shared_;
  Events events_;
  std::string out_;
  std::string kept_;  // input not yet taken
  std::string peer_;
  bool touched_ = false;
  bool paused_ = false;
  bool delivering_ = false;
  bool resumed_ = false;  // while delivering
};

// Listens on a TCP address. `on_connection` owns the socket that it is given; it may adopt it on
// any loop.
class Listener {
 public:
  static Expected<std::unique_ptr<Listener>> tcp(uv_loop_t* loop, const std::string& host,
                                                 uint16_t port,
                                                 std::function<void(int fd)> on_connection);
  ~Listener();
  // The address bound, with the port that the kernel picked where 0 was asked for.
  const std::string& host() const { return host_; }
  uint16_t port() const { return port_; }

 private:
  struct State;
  Listener() = default;
  State* state_ = nullptr;
  std::string host_;
  uint16_t port_ = 0;
};

}  // namespace sluice::net
