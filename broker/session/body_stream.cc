#include "broker/session/body_stream.h"

#include "broker/amqp/frame.h"
#include "broker/amqp/limits.h"

namespace sluice::broker {

size_t BodyStream::waiting_bytes() const {
  size_t bytes = 0;
  for (const Part& part : parts_) bytes += part.behind.size();
  return bytes;
}

void BodyStream::add(uint16_t channel, storage::BodyPtr body, uint32_t frame_max_bytes) {
  parts_.push_back({channel, std::move(body), frame_max_bytes, 0, {}});
  pump();
}

void BodyStream::pump() {
  if (reading_ || parts_.empty() || stream_.unsent_bytes() > amqp::kOutputBodyMaxBytes) return;
  reading_ = true;
  bodies_.read(parts_.front().body, parts_.front().next_chunk, 1,
               [weak = weak_from_this()](Expected<std::string> chunk) {
                 if (auto self = weak.lock()) self->received(std::move(chunk));
               });
}

void BodyStream::received(Expected<std::string> chunk) {
  reading_ = false;
  if (parts_.empty()) return;
  if (!chunk) {
    events_.failed(chunk.error());
    return;
  }
  Part& part = parts_.front();
  amqp::write_content_body(stream_.out(), part.channel, amqp::as_bytes(*chunk),
                           part.frame_max_bytes);
  if (++part.next_chunk == storage::chunk_count(part.body->bytes())) {
    stream_.out() += part.behind;
    parts_.pop_front();
  }
  stream_.touch();
  pump();
  events_.moved();
}

}  // namespace sluice::broker
