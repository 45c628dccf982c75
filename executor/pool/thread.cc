#include "executor/pool/thread.h"

#include <cstring>
#include <memory>
#include <string>

#include "base/check.h"

namespace sluice::executor {

Expected<pthread_t> start_thread(size_t stack_bytes, std::function<void()> run) {
  pthread_attr_t attributes;
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstacksize(&attributes, stack_bytes) == 0);
  auto task = std::make_unique<std::function<void()>>(std::move(run));
  auto enter = [](void* argument) -> void* {
    std::unique_ptr<std::function<void()>> mine(static_cast<std::function<void()>*>(argument));
    (*mine)();
    return nullptr;
  };
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, enter, task.get());
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    return fail(Code::kUnavailable,
                std::string("the system refuses another thread: ") + std::strerror(error));
  }
  task.release();
  return thread;
}

}  // namespace sluice::executor
