#include "broker/threads/standstill.h"

namespace sluice::broker {

void Standstill::stand() {
  std::unique_lock lock(mutex_);
  if (!taken_) return;
  ++standing_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !taken_; });
  --standing_;
}

void Standstill::begin() {
  if (requests_.size() > 1 &&
      holder_.load(std::memory_order_relaxed) != std::this_thread::get_id()) {
    std::unique_lock lock(mutex_);
    ++standing_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !taken_; });
    --standing_;
    taken_ = true;
    for (const auto& request : requests_) request();
    changed_.wait(lock, [this] { return standing_ == requests_.size() - 1; });
    holder_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  ++depth_;
}

void Standstill::end() {
  if (--depth_ > 0 || requests_.size() <= 1) return;
  std::lock_guard lock(mutex_);
  holder_.store(std::thread::id(), std::memory_order_relaxed);
  taken_ = false;
  changed_.notify_all();
}

}  // namespace sluice::broker
