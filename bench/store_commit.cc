// How fast messages become durable and how fast they are consumed, on the disk under --directory.
//
//   store_commit [--directory DIR] [--seconds N]
//
// Each figure is for 256-byte bodies, one committing thread, and as many commits in flight as a
// broker would have (kInFlight): what waits during a sync shares the next one.

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>

#include <CLI/CLI.hpp>

#include "storage/rocksdb/rocksdb_store.h"

namespace sluice::storage {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBodyBytes = 256;

// Commits without waiting for each, and never has more than `in_flight` under way.
class Window {
 public:
  Window(Store& store, size_t in_flight) : store_(store), in_flight_(in_flight) {}
  ~Window() { drain(0); }

  void commit(std::unique_ptr<Batch> batch) {
    drain(in_flight_ - 1);
    {
      std::lock_guard lock(mutex_);
      ++open_;
    }
    store_.commit(std::move(batch), [this](std::unique_ptr<Batch>, Expected<> outcome) {
      if (!outcome) {
        std::fprintf(stderr, "%s\n", outcome.error().message.c_str());
        std::exit(1);
      }
      std::lock_guard lock(mutex_);
      --open_;
      done_.notify_one();
    });
  }

  void drain(size_t left) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return open_ <= left; });
  }

 private:
  Store& store_;
  size_t in_flight_;
  std::mutex mutex_;
  std::condition_variable done_;
  size_t open_ = 0;
};

// Commits what `next` makes, `count` messages at a time, until the time is over or it makes null.
double rate(Store& store, size_t in_flight, size_t count, double seconds,
            const std::function<std::unique_ptr<Batch>()>& next) {
  auto start = Clock::now();
  auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  double messages = 0;
  {
    Window window(store, in_flight);
    while (elapsed() < seconds) {
      auto batch = next();
      if (batch == nullptr) break;
      window.commit(std::move(batch));
      messages += static_cast<double>(count);
    }
  }
  return messages / elapsed();
}

struct Queue {
  Store& store;
  QueueId id;
  Sequence appended = 1;  // next to append
  Sequence consumed = 1;  // next to consume

  std::unique_ptr<Batch> append(size_t count) {
    static const std::string body(kBodyBytes, 'x');
    auto batch = std::make_unique<Batch>();
    for (size_t i = 0; i < count; ++i) {
      batch->appends.push_back(
          {id, appended++,
           Record::make({.exchange = "",
                         .routing_key = "bench",
                         .properties = {},
                         .body = {reinterpret_cast<const uint8_t*>(body.data()), body.size()},
                         .published_at_ms = 1})});
    }
    return batch;
  }

  std::unique_ptr<Batch> advance(size_t count) {
    if (consumed + count > appended) return nullptr;
    auto batch = std::make_unique<Batch>();
    batch->advances.push_back({id, consumed += count});
    return batch;
  }

  std::unique_ptr<Batch> remove(size_t count) {
    if (consumed + count > appended) return nullptr;
    auto batch = std::make_unique<Batch>();
    for (size_t i = 0; i < count; ++i) batch->removes.push_back({id, consumed++});
    return batch;
  }

  double read_all() {
    auto start = Clock::now();
    size_t count = 0;
    for (Sequence from = 1;;) {
      auto found = store.read(id, {from, ~storage::Sequence{0}}, 1000, 1 << 20);
      if (!found || found->empty()) break;
      count += found->size();
      from = found->back().sequence + 1;
    }
    return static_cast<double>(count) / std::chrono::duration<double>(Clock::now() - start).count();
  }
};

void run(const std::string& directory, double seconds) {
  auto opened = open_rocksdb({.directory = directory});
  if (!opened) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    std::exit(1);
  }
  Store& store = **opened;
  QueueId id = 1;
  for (size_t in_flight : {1, 2, 16}) {
    for (size_t count : {1, 100, 500}) {
      Queue queue{store, id++};
      double got = rate(store, in_flight, count, seconds, [&] { return queue.append(count); });
      std::printf("append, batch %3zu, %2zu in flight: %9.0f messages/s\n", count, in_flight, got);
    }
  }
  for (bool by_watermark : {true, false}) {
    Queue queue{store, id++};
    rate(store, 2, 500, seconds * 2, [&] { return queue.append(500); });
    std::printf("read:                             %9.0f messages/s\n", queue.read_all());
    double got = rate(store, 2, 500, 1e9,
                      [&] { return by_watermark ? queue.advance(500) : queue.remove(500); });
    std::printf("consume by %-9s, batch 500:   %9.0f messages/s\n",
                by_watermark ? "watermark" : "delete", got);
  }
  for (bool by_watermark : {true, false}) {
    Queue queue{store, id++};
    double got = rate(store, 2, 500, seconds, [&] {
      auto batch = queue.append(500);
      if (queue.appended <= 2000) return batch;
      auto consumed = by_watermark ? queue.advance(500) : queue.remove(500);
      batch->advances = std::move(consumed->advances);
      batch->removes = std::move(consumed->removes);
      return batch;
    });
    std::printf("append and consume by %-9s:  %9.0f messages/s\n",
                by_watermark ? "watermark" : "delete", got);
  }
}

}  // namespace
}  // namespace sluice::storage

int main(int argc, char** argv) {
  std::string directory = "./store-commit-bench";
  double seconds = 2;
  CLI::App app("Synced messages per second of the embedded store");
  app.add_option("--directory", directory, "created, and removed at the end")
      ->capture_default_str();
  app.add_option("--seconds", seconds, "for each figure")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (std::filesystem::exists(directory)) {
    std::fprintf(stderr, "%s exists already\n", directory.c_str());
    return 2;
  }
  sluice::storage::run(directory, seconds);
  std::filesystem::remove_all(directory);
}
