#pragma once

#include <memory>
#include <utility>

namespace sluice::vmm {

// A value that copies share until one of them edits it. A snapshot's state is copied into its
// clones at every call; only what a call changes is ever duplicated. Copies may live on different
// threads; one copy is used by one thread.
template <typename T>
class Cow {
 public:
  Cow() : value_(std::make_shared<T>()) {}
  explicit Cow(T value) : value_(std::make_shared<T>(std::move(value))) {}

  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  T& edit() {
    if (value_.use_count() != 1) value_ = std::make_shared<T>(*value_);
    return *value_;
  }
  bool same(const Cow& other) const { return value_ == other.value_; }

 private:
  std::shared_ptr<T> value_;
};

}  // namespace sluice::vmm
