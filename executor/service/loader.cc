#include "executor/service/loader.h"

#include <utility>

#include "executor/service/limits.h"

namespace sluice::executor {

Loader::Loader() : queue_(kLoaders) {
  for (unsigned i = 0; i < kLoaders; i++) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    jobs_.notify_all();
  }
  threads_.clear();
}

void Loader::push(const std::string& owner, size_t bytes, std::function<void()> run) {
  std::unique_lock lock(mutex_);
  room_.wait(lock,
             [&] { return queue_.size() < kQueuedLoadsMax && queued_bytes_ < kQueuedBytesMax; });
  auto [found, is_new] = lanes_.try_emplace(owner, nullptr, kLoadersShare, kLoadersShare);
  Queue::Lane& lane = found->second;
  // A job needs nothing to run in: as many seats as may be taken.
  for (unsigned i = 0; is_new && i < kLoadersShare; i++) queue_.add_seat(lane);
  queued_bytes_ += bytes;
  queue_.push(lane, {bytes, std::move(run)});
  jobs_.notify_one();
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto grant = queue_.pop();
    if (!grant) {
      if (stopping_ && queue_.size() == 0) return;
      jobs_.wait(lock);
      continue;
    }
    queued_bytes_ -= grant->job->bytes;
    room_.notify_one();
    lock.unlock();
    grant->job->run();
    grant->job.reset();
    lock.lock();
    queue_.done(*grant->lane);
    queue_.add_seat(*grant->lane);
    // For one that its owner's share held back, and for those that may end.
    stopping_ ? jobs_.notify_all() : jobs_.notify_one();
    if (grant->lane->waiting() == 0 && grant->lane->begun() == 0) {
      std::erase_if(lanes_, [&](const auto& entry) { return &entry.second == grant->lane; });
    }
  }
}

}  // namespace sluice::executor
