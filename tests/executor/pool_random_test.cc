// Random commands from many threads: whatever happens, each call is answered once, by its function.

#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "base/check.h"
#include "tests/executor/pool_harness.h"

namespace sluice::executor {
namespace {

constexpr int kThreads = 6;
constexpr int kSteps = 2000;
constexpr uint64_t kFunctions = 8;

class PoolRandomTest : public PoolTest {
 protected:
  static uint64_t seed() {
    const char* given = std::getenv("SLUICE_SEED");
    uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("seed: SLUICE_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return seed;
  }

  // Its sandboxes crash, grow, sleep and are refused now and then, as the input says.
  std::shared_ptr<FakeImage> wild_image(uint64_t number) {
    auto made = std::make_shared<FakeImage>(std::to_string(number), kMiB / 2, kMiB);
    made->behaviour = [](FakeImage::Sandbox& sandbox, const std::string& input) {
      CHECK(input.substr(1) == sandbox.image->name);
      CallResult result = text_result(input);
      switch (input[0]) {
        case 'c':
          sandbox.broken = true;
          result.ending = {Outcome::kException, 0, "crash"};
          break;
        case 'g':
          sandbox.bytes += kMiB / 4;
          break;
        case 's':
          sandbox.slot->release();
          std::this_thread::yield();
          sandbox.slot->acquire(SteadyClock().now_ns() + 5'000'000'000);
          break;
        case 'n':
          sandbox.image->refuse++;
          break;
        default:
          break;
      }
      return result;
    };
    std::lock_guard lock(images_mutex_);
    images_.push_back(made);
    return made;
  }

  void random_steps(uint64_t seed, uint64_t first_call) {
    std::mt19937_64 random(seed);
    for (uint64_t step = 0; step < kSteps; step++) {
      uint64_t number = random() % kFunctions;
      uint64_t dice = random() % 1000;
      if (dice < 10) {
        pools_->unload(number);
      } else if (dice < 30) {
        const char* owners[] = {"x", "y", "z"};
        Function* f = pools_->add(number, owners[random() % 3], random() % 4);
        if (random() % 4 == 0) {
          pools_->failed(f, Outcome::kBadImage, "bad");
        } else {
          pools_->loaded(f, wild_image(number));
        }
      } else if (dice < 60) {
        clock_.advance_ms(static_cast<int64_t>(random() % 3000));
        pools_->tick();
      } else if (dice < 70) {
        pools_->stats();
      } else {
        invoke(first_call + step, number, "egncs......"[random() % 11] + std::to_string(number));
        calls_++;
      }
    }
  }

  std::mutex images_mutex_;
  std::vector<std::shared_ptr<FakeImage>> images_;
  std::atomic<size_t> calls_ = 0;
};

TEST_F(PoolRandomTest, EachCallIsAnsweredOnce) {
  uint64_t base = seed();
  start(5, 2, 12 * kMiB);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; i++) {
    threads.emplace_back([=, this] { random_steps(base + i, i * kSteps); });
  }
  for (auto& thread : threads) thread.join();
  pools_.reset();
  EXPECT_EQ(order_.size(), calls_);
  EXPECT_EQ(answers_.size(), calls_);
  size_t ok = 0;
  for (const auto& [id, results] : answers_) {
    ASSERT_EQ(results.size(), 1u) << "call " << id;
    ok += results[0].ending.outcome == Outcome::kOk;
  }
  EXPECT_GT(ok, calls_ / 10);
  for (const auto& image : images_) EXPECT_EQ(image->alive, 0);
}

// With the pacer and the machine's clock, and destroyed while calls are still queued.
TEST_F(PoolRandomTest, EndingAnswersAll) {
  uint64_t base = seed();
  for (uint64_t round = 0; round < 5; round++) {
    answers_.clear();
    order_.clear();
    calls_ = 0;
    start(3, 2, 6 * kMiB, true);
    for (uint64_t f = 0; f < kFunctions; f++) {
      pools_->loaded(pools_->add(f, f % 2 ? "x" : "y", 0), wild_image(f));
    }
    std::thread other([&] { random_steps(base + round, 0); });
    other.join();
    pools_.reset();
    EXPECT_EQ(order_.size(), calls_);
    EXPECT_EQ(answers_.size(), calls_);
  }
}

}  // namespace
}  // namespace sluice::executor
