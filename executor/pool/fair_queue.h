#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "base/check.h"

namespace sluice::executor {

// Jobs that wait for a run slot, in lanes: one for each function. Lanes take turns, and none has
// more than its share of the slots at a time, so a function whose calls take for ever, or that
// sends very many, delays the others little. Within a lane jobs keep their order.
//
// A job needs a seat to run in besides the slot, which its lane must have. A job that sleeps gives
// its slot back and keeps its seat; once it is awake it waits for a slot again, before the lane's
// new jobs.
//
// Not thread-safe: its owner holds a lock. Lanes are their user's, and must outlive what is in
// them.
template <typename Job, typename Sleeper, typename Owner>
class FairQueue {
 public:
  class Lane {
   public:
    // `share` is how many of its jobs may have a slot at a time, `limit` how many may have begun
    // and not ended, those asleep included. Both at least 1.
    Lane(Owner* owner, size_t share, size_t limit) : owner_(owner), share_(share), limit_(limit) {
      CHECK(share > 0 && limit > 0);
    }
    ~Lane() { CHECK(!has_turn_ && jobs_.empty() && begun_ == 0); }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    Owner* owner() const { return owner_; }
    size_t share() const { return share_; }
    size_t limit() const { return limit_; }
    size_t waiting() const { return jobs_.size(); }
    size_t running() const { return running_; }
    size_t begun() const { return begun_; }
    size_t seats() const { return seats_; }

   private:
    friend class FairQueue;

    bool ready() const {
      return running_ < share_ &&
             (!awake_.empty() || (!jobs_.empty() && seats_ > 0 && begun_ < limit_));
    }

    Owner* const owner_;
    const size_t share_, limit_;
    std::deque<Job> jobs_;
    std::deque<Sleeper> awake_;  // want a slot again
    size_t running_ = 0, begun_ = 0, seats_ = 0;
    bool has_turn_ = false;
    Lane* before_ = nullptr;
    Lane* after_ = nullptr;
  };

  // Either a new job, for one of its lane's seats, or one that goes on.
  struct Grant {
    Lane* lane;
    std::optional<Job> job;
    std::optional<Sleeper> sleeper;
  };

  explicit FairQueue(size_t slots) : slots_(slots) { CHECK(slots > 0); }

  // Jobs that wait, in all lanes.
  size_t size() const { return size_; }
  size_t running() const { return running_; }

  void push(Lane& lane, Job job) {
    lane.jobs_.push_back(std::move(job));
    ++size_;
    take_turns(lane);
  }

  // The oldest job of the lane leaves unrun.
  std::optional<Job> withdraw(Lane& lane) {
    if (lane.jobs_.empty()) return std::nullopt;
    Job job = take_job(lane);
    take_turns(lane);
    return job;
  }

  void add_seat(Lane& lane) {
    ++lane.seats_;
    take_turns(lane);
  }
  void remove_seat(Lane& lane) {
    CHECK(lane.seats_ > 0);
    --lane.seats_;
    take_turns(lane);
  }

  // What may run next, nothing if there is nothing or no slot. It has its slot, and a new job one
  // of its lane's seats, until done() or sleep().
  std::optional<Grant> pop() {
    if (first_ == nullptr || running_ >= slots_) return std::nullopt;
    Lane& lane = *first_;
    unlink(lane);
    Grant grant{&lane, std::nullopt, std::nullopt};
    start(lane);
    if (!lane.awake_.empty()) {
      grant.sleeper.emplace(std::move(lane.awake_.front()));
      lane.awake_.pop_front();
    } else {
      grant.job.emplace(take_job(lane));
      --lane.seats_;
      ++lane.begun_;
    }
    take_turns(lane);
    return grant;
  }

  // A job has ended. Its seat comes back by add_seat(), or not at all.
  void done(Lane& lane) {
    CHECK(lane.begun_ > 0);
    --lane.begun_;
    stop(lane);
  }

  // A job that runs gives its slot back for as long as it sleeps.
  void sleep(Lane& lane) { stop(lane); }
  // It is awake: pop() will say when it may go on.
  void wake(Lane& lane, Sleeper sleeper) {
    lane.awake_.push_back(std::move(sleeper));
    take_turns(lane);
  }
  // It goes on without waiting any longer, on a slot that there may not be.
  void force(Lane& lane, const Sleeper& sleeper) {
    auto found = std::find(lane.awake_.begin(), lane.awake_.end(), sleeper);
    CHECK(found != lane.awake_.end());
    lane.awake_.erase(found);
    start(lane);
    take_turns(lane);
  }

 private:
  void start(Lane& lane) {
    ++running_;
    ++lane.running_;
  }
  void stop(Lane& lane) {
    CHECK(lane.running_ > 0 && running_ > 0);
    --running_;
    --lane.running_;
    take_turns(lane);
  }
  Job take_job(Lane& lane) {
    Job job = std::move(lane.jobs_.front());
    lane.jobs_.pop_front();
    --size_;
    return job;
  }

  // Puts the lane behind the others that may run something, or takes it away from them.
  void take_turns(Lane& lane) {
    if (lane.ready() == lane.has_turn_) return;
    if (lane.has_turn_) return unlink(lane);
    lane.has_turn_ = true;
    lane.before_ = last_;
    lane.after_ = nullptr;
    (last_ != nullptr ? last_->after_ : first_) = &lane;
    last_ = &lane;
  }
  void unlink(Lane& lane) {
    lane.has_turn_ = false;
    (lane.before_ != nullptr ? lane.before_->after_ : first_) = lane.after_;
    (lane.after_ != nullptr ? lane.after_->before_ : last_) = lane.before_;
  }

  const size_t slots_;
  size_t size_ = 0, running_ = 0;
  Lane* first_ = nullptr;  // lanes that may run something, in turn; each once
  Lane* last_ = nullptr;
};

}  // namespace sluice::executor
