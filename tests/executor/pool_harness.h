#pragma once

#include <chrono>
#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "executor/pool/limits.h"
#include "executor/pool/pools.h"
#include "tests/executor/fake_backend.h"

// Pools over fake sandboxes, on a clock that stands still and without the pacer: only what a test
// asks for happens.
namespace sluice::executor {

inline constexpr uint64_t kMiB = 1 << 20;
static_assert(kSandboxBytesGuess == kMiB, "the tests' sandboxes are as large as the guess");

class PoolTest : public testing::Test {
 protected:
  // `share` of the slots for each function; the budget in sandboxes.
  void start(size_t slots, size_t share, uint64_t budget_bytes = 1000 * kMiB, bool paced = false) {
    Pools::Options options;
    options.slots = slots;
    options.share = share;
    options.making_max = 2 * slots;
    options.memory_budget_bytes = budget_bytes;
    options.clock = paced ? nullptr : &clock_;
    options.paced = paced;
    start(std::move(options));
  }
  void start(Pools::Options options) {
    options.answer = [this](uint64_t call, const CallResult& result) {
      std::lock_guard lock(mutex_);
      answers_[call].push_back(result);
      order_.push_back(call);
      answered_.notify_all();
    };
    options.stats = [this](const PoolStats& stats) {
      std::lock_guard lock(mutex_);
      sent_stats_.push_back(stats);
      answered_.notify_all();
    };
    pools_ = std::make_unique<Pools>(std::move(options));
  }

  std::shared_ptr<FakeImage> image(uint64_t sandbox_bytes = kMiB, uint64_t image_bytes = 0) {
    return std::make_shared<FakeImage>("image", image_bytes, sandbox_bytes);
  }
  void load(uint64_t number, std::shared_ptr<FakeImage> image, const std::string& owner = "",
            size_t concurrency = 0) {
    pools_->loaded(pools_->add(number, owner, concurrency), std::move(image));
  }
  // An image whose calls wait at `gate`.
  std::shared_ptr<FakeImage> load_gated(uint64_t number, Gate& gate, const std::string& owner = "",
                                        size_t concurrency = 0) {
    auto made = image();
    made->behaviour = [&gate](FakeImage::Sandbox& sandbox, const std::string&) {
      gate.pass();
      return text_result(std::to_string(sandbox.number));
    };
    load(number, made, owner, concurrency);
    return made;
  }
  static CallResult text_result(std::string text) {
    CallResult result;
    result.output = std::move(text);
    return result;
  }

  void invoke(uint64_t call, uint64_t function, const std::string& input = "") {
    Call c;
    c.id = call;
    c.frame.assign(input.begin(), input.end());
    c.input = c.frame;
    pools_->invoke(function, std::move(c));
  }
  // Calls numbered from `first`.
  void invoke_many(uint64_t first, int count, uint64_t function) {
    for (int i = 0; i < count; i++) invoke(first + static_cast<uint64_t>(i), function);
  }
  CallResult call(uint64_t id, uint64_t function, const std::string& input = "") {
    invoke(id, function, input);
    CallResult result = answer(id);
    pools_->wait_idle();
    return result;
  }
  // Waits for it.
  CallResult answer(uint64_t call) {
    std::unique_lock lock(mutex_);
    answered_.wait(lock, [&] { return answers_.contains(call); });
    EXPECT_EQ(answers_[call].size(), 1u) << "call " << call;
    return answers_[call].front();
  }
  size_t answered() {
    std::lock_guard lock(mutex_);
    return order_.size();
  }
  void tick_after_ms(int64_t ms) {
    clock_.advance_ms(ms);
    pools_->tick();
    pools_->wait_idle();
  }
  FunctionStats stats(uint64_t function) {
    for (const FunctionStats& f : pools_->stats().functions) {
      if (f.function == function) return f;
    }
    ADD_FAILURE() << "no function " << function;
    return {};
  }
  // Until it is so; what changes it is on its way and tells nobody.
  template <typename Condition>
  void until(Condition condition) {
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "it did not happen";
      std::this_thread::yield();
    }
  }

  FakeClock clock_;
  std::mutex mutex_;
  std::condition_variable answered_;
  std::map<uint64_t, std::vector<CallResult>> answers_;
  std::vector<uint64_t> order_;
  std::vector<PoolStats> sent_stats_;
  std::list<Gate> gates_;
  std::unique_ptr<Pools> pools_;  // ends first: its threads use the rest
};

}  // namespace sluice::executor
