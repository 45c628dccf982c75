#pragma once

#include <cstddef>
#include <deque>
#include <list>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace sluice::executor {

// Jobs that wait for a worker, in lanes: one for each function. Lanes take turns, and none has more
// than its share of the workers at a time, so a function whose calls take for ever, or that sends
// very many, delays the others little. Within a lane jobs keep their order.
//
// Not thread-safe: its owner holds a lock.
template <typename Key, typename Job>
class FairQueue {
 public:
  // `share` is how many jobs of one lane may run at a time, at least 1.
  explicit FairQueue(size_t share) : share_(share) { CHECK(share > 0); }

  size_t size() const { return size_; }
  // Whether pop() has something to give.
  bool runnable() const { return !turns_.empty(); }

  void push(Key key, Job job) {
    Lane& lane = lanes_[key];
    lane.jobs.push_back(std::move(job));
    ++size_;
    take_turns(key, lane);
  }

  // The next job, which counts as running until done() is called with its key.
  std::optional<std::pair<Key, Job>> pop() {
    if (turns_.empty()) return std::nullopt;
    Key key = turns_.front();
    turns_.pop_front();
    Lane& lane = lanes_.at(key);
    lane.waits_turn = false;
    Job job = std::move(lane.jobs.front());
    lane.jobs.pop_front();
    --size_;
    ++lane.running;
    take_turns(key, lane);
    return std::pair(key, std::move(job));
  }

  void done(Key key) {
    auto found = lanes_.find(key);
    CHECK(found != lanes_.end() && found->second.running > 0);
    Lane& lane = found->second;
    --lane.running;
    if (lane.jobs.empty() && lane.running == 0) {
      lanes_.erase(found);
    } else {
      take_turns(key, lane);
    }
  }

 private:
  struct Lane {
    std::deque<Job> jobs;
    size_t running = 0;
    bool waits_turn = false;
  };

  void take_turns(Key key, Lane& lane) {
    if (lane.waits_turn || lane.jobs.empty() || lane.running >= share_) return;
    lane.waits_turn = true;
    turns_.push_back(key);
  }

  const size_t share_;
  std::unordered_map<Key, Lane> lanes_;
  std::list<Key> turns_;  // lanes that may run a job, in turn; each once
  size_t size_ = 0;
};

}  // namespace sluice::executor
