#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "executor/pool/fair_queue.h"

namespace sluice::executor {

// A few threads that load functions, so that a program which takes long to initialise holds up no
// call. Owners take turns, and none has more than half of the threads.
//
// Threads: push() from one; the jobs run on the loader's. One mutex, held for a push or a pop.
class Loader {
 public:
  Loader();
  // Runs what waits, first.
  ~Loader();

  // Blocks while as much waits as may (limits.h). `bytes` is what the job keeps of it.
  void push(const std::string& owner, size_t bytes, std::function<void()> run);

 private:
  struct Job {
    size_t bytes;
    std::function<void()> run;
  };
  using Queue = FairQueue<Job, int, const std::string>;

  void work();

  std::mutex mutex_;
  std::condition_variable jobs_, room_;
  Queue queue_;
  std::unordered_map<std::string, Queue::Lane> lanes_;  // of those with a job
  size_t queued_bytes_ = 0;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace sluice::executor
