#pragma once

#include <cstddef>
#include <functional>

#include <pthread.h>

#include "base/error.h"

namespace sluice::executor {

// Starts a thread with a stack of so many bytes, to be joined with pthread_join.
// Errors: kUnavailable when the system refuses another thread.
Expected<pthread_t> start_thread(size_t stack_bytes, std::function<void()> run);

}  // namespace sluice::executor
