#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "broker/net/stream.h"
#include "broker/queue/bodies.h"

namespace sluice::broker {

// The external bodies that a connection is sending, in order, and what is to be sent behind each.
// Chunks are read from the store as the client takes them; a connection has a few in RAM, however
// large the body. While it is active, output for any channel but 0 has to wait in behind(): the
// frames of a content may not be mixed with others of their channel, and all keep their order.
//
// On the shard's thread; owned by its connection, which must clear() it before the stream goes.
class BodyStream : public std::enable_shared_from_this<BodyStream> {
 public:
  struct Events {
    // Output for the connection was made, or a body is through.
    std::function<void()> moved;
    // A body can not be read. What was sent of its content can not be finished.
    std::function<void(const Error&)> failed;
  };

  BodyStream(Bodies& bodies, net::Stream& stream, Events events)
      : bodies_(bodies), stream_(stream), events_(std::move(events)) {}

  bool active() const { return !parts_.empty(); }
  // While active: where further output is appended.
  std::string& behind() { return parts_.back().behind; }
  // What waits in behind().
  size_t waiting_bytes() const;
  size_t body_count() const { return parts_.size(); }

  // Sends the frames of a body next, each of at most `frame_max_bytes`; its method and header are
  // in the output already.
  void add(uint16_t channel, storage::BodyPtr body, uint32_t frame_max_bytes);
  // The client has taken output.
  void pump();
  // Sends no more.
  void clear() { parts_.clear(); }

 private:
  struct Part {
    uint16_t channel;
    storage::BodyPtr body;
    uint32_t frame_max_bytes;
    uint32_t next_chunk = 0;
    std::string behind;
  };
  void received(Expected<std::string> chunk);

  Bodies& bodies_;
  net::Stream& stream_;
  const Events events_;
  std::deque<Part> parts_;
  bool reading_ = false;
};

}  // namespace sluice::broker
