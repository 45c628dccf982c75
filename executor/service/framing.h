#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include <flatbuffers/flatbuffers.h>

#include "base/error.h"

// Frames as schemas/executor.fbs describes them: a little-endian uint32 and so many bytes.
namespace sluice::executor {

// Cuts what a blocking socket delivers into frames. Used by one thread; borrows the descriptor.
class FrameReader {
 public:
  explicit FrameReader(int fd) : fd_(fd) {}

  // The next frame, aligned for FlatBuffers; nullopt at the end of the stream.
  // Errors: kIo, kCorrupt for a length over kFrameBytesMax or a stream that ends within a frame.
  Expected<std::optional<std::vector<uint8_t>>> next();

 private:
  int fd_;
  std::vector<uint8_t> buffer_;
  size_t begin_ = 0, end_ = 0;
};

// Writes frames from any thread to one socket. Who finds it idle writes, and goes on as long as
// others have added frames meanwhile: they go out together, and nobody is woken for it. The mutex
// guards a queue that is as good as never contended for longer than a push.
class Outbox {
 public:
  explicit Outbox(int fd) : fd_(fd) {}

  // Blocks while the peer does not read and kOutboxBytesMax are waiting. After a write error
  // everything is dropped: the reader sees the end of the stream.
  void send(flatbuffers::DetachedBuffer frame);

 private:
  bool write_all(std::vector<flatbuffers::DetachedBuffer>& frames);
  bool write_some(const flatbuffers::DetachedBuffer* frames, size_t count);

  int fd_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::vector<flatbuffers::DetachedBuffer> waiting_;
  size_t waiting_bytes_ = 0;
  bool writing_ = false;
  bool failed_ = false;
};

}  // namespace sluice::executor
