#pragma once

#include <functional>
#include <utility>

#include <uv.h>

#include "base/check.h"

namespace sluice::broker {

// Runs `work` on a thread of libuv's pool, which may take its time, and then `done` on the loop's.
// Both live until then.
inline void in_background(uv_loop_t* loop, std::function<void()> work, std::function<void()> done) {
  struct Request {
    uv_work_t request;
    std::function<void()> work, done;
  };
  auto* request = new Request{{}, std::move(work), std::move(done)};
  request->request.data = request;
  int status = uv_queue_work(
      loop, &request->request, [](uv_work_t* r) { static_cast<Request*>(r->data)->work(); },
      [](uv_work_t* r, int) {
        auto* ended = static_cast<Request*>(r->data);
        auto after = std::move(ended->done);
        delete ended;
        after();
      });
  CHECK(status == 0);
}

}  // namespace sluice::broker
