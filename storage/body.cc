#include "storage/body.h"

#include <utility>

#include "base/check.h"

namespace sluice::storage {

Body::Body(std::shared_ptr<HeldBodies> held, BodyId id, uint64_t bytes)
    : held_(std::move(held)), id_(id), bytes_(bytes) {
  held_->add(id_);
}

Body::~Body() { held_->release(id_); }

void HeldBodies::add(BodyId id) {
  std::lock_guard lock(mutex_);
  ++holders_[id];
}

void HeldBodies::release(BodyId id) {
  std::lock_guard lock(mutex_);
  auto found = holders_.find(id);
  CHECK(found != holders_.end());
  if (--found->second > 0) return;
  holders_.erase(found);
  if (!when_released_) return;
  released_.push_back(id);
  if (released_.size() == 1) when_released_();
}

bool HeldBodies::held(BodyId id) const {
  std::lock_guard lock(mutex_);
  return holders_.contains(id);
}

std::vector<BodyId> HeldBodies::take_released() {
  std::lock_guard lock(mutex_);
  return std::exchange(released_, {});
}

void HeldBodies::when_released(std::function<void()> released) {
  std::lock_guard lock(mutex_);
  when_released_ = std::move(released);
}

}  // namespace sluice::storage
