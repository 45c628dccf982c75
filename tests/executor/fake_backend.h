#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "executor/contract/backend.h"
#include "executor/pool/clock.h"

// Sandboxes without a machine under them, for tests of what uses them. Each call does what the
// test's behaviour says, on the thread that the pool gave it.
namespace sluice::executor {

// Stands still but for advance().
class FakeClock : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_; }
  void advance_ms(int64_t ms) { now_ns_ += ms * 1'000'000; }

 private:
  std::atomic<int64_t> now_ns_ = 3'600'000'000'000;
};

// What a test prescribes to all sandboxes of an image, and what it learns of them. From any thread.
class FakeImage : public Image, public std::enable_shared_from_this<FakeImage> {
 public:
  struct Sandbox;
  using Behaviour = std::function<CallResult(Sandbox&, const std::string& input)>;

  // `image_bytes` and `sandbox_bytes`: what memory_bytes() says.
  FakeImage(std::string name, uint64_t image_bytes, uint64_t sandbox_bytes)
      : name(std::move(name)), image_bytes_(image_bytes), sandbox_bytes_(sandbox_bytes) {}

  Expected<std::unique_ptr<executor::Sandbox>> clone() const override;
  bool at_first_read() const override { return true; }
  bool speaks_protocol() const override { return false; }
  const std::string& warning() const override { return warning_; }
  uint64_t memory_bytes() const override { return image_bytes_; }

  struct Sandbox : executor::Sandbox {
    CallResult call(std::span<const uint8_t> input) override;
    bool ready() const override { return !broken; }
    uint64_t memory_bytes() const override { return bytes; }
    void use_slot(Slot* s) override { slot = s; }
    ~Sandbox() override;

    std::shared_ptr<FakeImage> image;
    int number = 0;  // of this image's, from 1
    uint64_t bytes = 0;
    bool broken = false;
    Slot* slot = nullptr;
    std::thread::id thread;
  };

  const std::string name;
  // Empty: echoes its input. Set before the first call.
  Behaviour behaviour;
  // Refused instead of made, so many times; or until set to 0.
  std::atomic<int> refuse = 0;
  std::atomic<int> made = 0, alive = 0, alive_max = 0;

 private:
  const uint64_t image_bytes_, sandbox_bytes_;
  const std::string warning_;
};

// Where calls wait for the test: as many as it has let go on, in any order.
class Gate {
 public:
  // In a behaviour: waits until it is opened for this one.
  void pass() {
    std::unique_lock lock(mutex_);
    waiting_++;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ > 0; });
    open_--;
    waiting_--;
    changed_.notify_all();
  }
  // Until so many wait here.
  void await(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ - open_ >= count; });
  }
  // Lets so many go, now or when they come.
  void open(int count) {
    std::unique_lock lock(mutex_);
    open_ += count;
    changed_.notify_all();
  }
  int waiting() {
    std::unique_lock lock(mutex_);
    return waiting_ - open_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0, open_ = 0;
};

}  // namespace sluice::executor
