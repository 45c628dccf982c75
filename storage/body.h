#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "storage/limits.h"

namespace sluice::storage {

// Used again only where nothing is stored under it any more. 0 is no body.
using BodyId = uint64_t;

class HeldBodies;

// An external body: one too large for its message's record. It lies in the store in chunks of
// kChunkBytes, the last one shorter, and is stored once, however many messages refer to it. The
// store keeps it while a message does or a Body of it is alive: whoever may still read it, or make
// a message of it, holds one. Immutable; safe to use from any thread.
class Body {
 public:
  Body(std::shared_ptr<HeldBodies> held, BodyId id, uint64_t bytes);
  ~Body();
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;

  BodyId id() const { return id_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<HeldBodies> held_;
  const BodyId id_;
  const uint64_t bytes_;
};

using BodyPtr = std::shared_ptr<const Body>;

// Which bodies are held in this process. A Body may be let go of on any thread while the store's
// own looks here, hence the mutex; it is taken a few times for each large body.
class HeldBodies : public std::enable_shared_from_this<HeldBodies> {
 public:
  BodyPtr hold(BodyId id, uint64_t bytes) {
    return std::make_shared<const Body>(shared_from_this(), id, bytes);
  }
  bool held(BodyId id) const;
  // The bodies that nobody holds any more since the last call. One may be held again by now.
  std::vector<BodyId> take_released();
  // `released` is called, on any thread and under the mutex, when there is something to take. Null
  // ends that: it is not called any more once this returns.
  void when_released(std::function<void()> released);

 private:
  friend class Body;
  void add(BodyId id);
  void release(BodyId id);

  mutable std::mutex mutex_;
  std::unordered_map<BodyId, size_t> holders_;
  std::vector<BodyId> released_;
  std::function<void()> when_released_;
};

inline uint32_t chunk_count(uint64_t bytes) {
  return static_cast<uint32_t>((bytes + kChunkBytes - 1) / kChunkBytes);
}

}  // namespace sluice::storage
