#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include <uv.h>

#include "base/error.h"
#include "broker/net/handles.h"

namespace sluice::broker {

// Watches the free space of the data directory, so that publishing stops before a write fails,
// which would end the broker. On the shard's thread.
//
// The space that is left below the limit is for what publishing has begun, for memory that is
// still to be flushed, and for compactions, which write their output before they delete their
// input.
class DiskAlarm {
 public:
  struct Events {
    // Messages' bytes that wait to be written.
    std::function<size_t()> unwritten_bytes;
    // The alarm went on or off.
    std::function<void()> changed;
    // The alarm is on, and space should be given back. Called again and again.
    std::function<void()> reclaim;
  };

  // `free_min_bytes` 0 chooses: a twentieth of the disk, at least 256 MiB and at most 1 GiB.
  DiskAlarm(uv_loop_t* loop, std::string directory, uint64_t free_min_bytes, Events events);

  // Looks for the first time, and from then on by itself. kIo where the directory cannot be asked.
  Expected<> start() { return look(); }

  bool on() const { return on_; }
  uint64_t free_bytes() const { return free_bytes_; }
  uint64_t free_min_bytes() const { return free_min_bytes_; }
  // For clients that are blocked.
  std::string reason() const;

 private:
  Expected<> look();

  uv_loop_t* loop_;
  const std::string directory_;
  uint64_t free_min_bytes_;
  const Events events_;
  net::Timer timer_;
  uint64_t free_bytes_ = 0;
  uint64_t reclaimed_at_ms_ = 0;
  bool on_ = false;
};

}  // namespace sluice::broker
