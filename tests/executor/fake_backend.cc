#include "tests/executor/fake_backend.h"

#include <thread>

#include "base/check.h"

namespace sluice::executor {

Expected<std::unique_ptr<executor::Sandbox>> FakeImage::clone() const {
  auto self = std::const_pointer_cast<FakeImage>(shared_from_this());
  if (self->refuse > 0) {
    self->refuse--;
    return fail(Code::kUnavailable, "no more sandboxes");
  }
  auto sandbox = std::make_unique<Sandbox>();
  sandbox->number = ++self->made;
  sandbox->bytes = sandbox_bytes_;
  sandbox->thread = std::this_thread::get_id();
  int alive = ++self->alive;
  for (int most = self->alive_max; alive > most;) {
    if (self->alive_max.compare_exchange_weak(most, alive)) break;
  }
  sandbox->image = std::move(self);
  return sandbox;
}

CallResult FakeImage::Sandbox::call(std::span<const uint8_t> input) {
  CHECK(ready() && thread == std::this_thread::get_id());
  std::string text(input.begin(), input.end());
  if (image->behaviour) return image->behaviour(*this, text);
  CallResult result;
  result.output = text;
  result.run_us = 10;
  result.exits = 1;
  result.dirty_pages = 3;
  return result;
}

FakeImage::Sandbox::~Sandbox() {
  CHECK(thread == std::this_thread::get_id());
  --image->alive;
}

}  // namespace sluice::executor
