#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include <uv.h>

#include "base/check.h"

// Owners for libuv's handles. A handle's memory is freed in its close callback only, as libuv wants
// it, so an owner may go at any time, also inside its own callback. All belong to the loop's
// thread; Wakeup::send alone may be called from any.
namespace sluice::net {

// Keeps a handle of type H on the heap with what its callback calls.
template <typename H>
class Handle {
 public:
  struct State {
    H handle;
    std::function<void()> callback;
  };

  Handle() = default;
  Handle(Handle&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~Handle() { close(); }

  H* get() const { return &state_->handle; }
  explicit operator bool() const { return state_ != nullptr; }

  void create(std::function<void()> callback) {
    CHECK(state_ == nullptr);
    state_ = new State{{}, std::move(callback)};
    state_->handle.data = state_;
  }
  void close() {
    if (state_ == nullptr) return;
    State* state = std::exchange(state_, nullptr);
    state->callback = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(&state->handle),
             [](uv_handle_t* handle) { delete static_cast<State*>(handle->data); });
  }
  static void call(H* handle) {
    // The callback may close the handle, which clears the function it runs in: call a copy.
    auto callback = static_cast<State*>(handle->data)->callback;
    if (callback) callback();
  }

 private:
  State* state_ = nullptr;
};

class Timer {
 public:
  Timer(uv_loop_t* loop, std::function<void()> callback) {
    handle_.create(std::move(callback));
    CHECK(uv_timer_init(loop, handle_.get()) == 0);
  }
  // Starts it, or starts it over. With `repeat_ms` 0 it fires once.
  void start(uint64_t after_ms, uint64_t repeat_ms = 0) {
    CHECK(uv_timer_start(handle_.get(), Handle<uv_timer_t>::call, after_ms, repeat_ms) == 0);
  }
  void stop() { uv_timer_stop(handle_.get()); }
  bool active() const { return uv_is_active(reinterpret_cast<uv_handle_t*>(handle_.get())) != 0; }

 private:
  Handle<uv_timer_t> handle_;
};

class Wakeup {
 public:
  Wakeup(uv_loop_t* loop, std::function<void()> callback) {
    handle_.create(std::move(callback));
    CHECK(uv_async_init(loop, handle_.get(), Handle<uv_async_t>::call) == 0);
  }
  // From any thread. Several sends before the loop comes round are one callback.
  void send() { uv_async_send(handle_.get()); }

 private:
  Handle<uv_async_t> handle_;
};

class Signal {
 public:
  Signal(uv_loop_t* loop, int number, std::function<void()> callback) {
    handle_.create(std::move(callback));
    CHECK(uv_signal_init(loop, handle_.get()) == 0);
    CHECK(uv_signal_start(
              handle_.get(), [](uv_signal_t* h, int) { Handle<uv_signal_t>::call(h); }, number) ==
          0);
  }

 private:
  Handle<uv_signal_t> handle_;
};

// Runs a function at the end of each turn of the loop, before it waits for I/O again: what the turn
// gathered (output, a batch for the store) is handed on in one piece.
class TurnEnd {
 public:
  TurnEnd(uv_loop_t* loop, std::function<void()> callback) {
    prepare_.create(callback);
    check_.create(std::move(callback));
    CHECK(uv_prepare_init(loop, prepare_.get()) == 0);
    CHECK(uv_check_init(loop, check_.get()) == 0);
    CHECK(uv_prepare_start(prepare_.get(), Handle<uv_prepare_t>::call) == 0);
    CHECK(uv_check_start(check_.get(), Handle<uv_check_t>::call) == 0);
  }

 private:
  Handle<uv_prepare_t> prepare_;
  Handle<uv_check_t> check_;
};

}  // namespace sluice::net
