#include "executor/service/framing.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include <endian.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "executor/service/limits.h"

namespace sluice::executor {

Expected<std::optional<std::vector<uint8_t>>> FrameReader::next() {
  for (;;) {
    size_t have = end_ - begin_;
    size_t want = sizeof(uint32_t);
    if (have >= want) {
      uint32_t length;
      std::memcpy(&length, &buffer_[begin_], sizeof length);
      length = le32toh(length);
      if (length > kFrameBytesMax) {
        return fail(Code::kCorrupt, "a frame of " + std::to_string(length) +
                                        " bytes; the limit is " + std::to_string(kFrameBytesMax));
      }
      want += length;
      if (have >= want) {
        auto from = buffer_.begin() + static_cast<ptrdiff_t>(begin_);
        std::vector<uint8_t> frame(from + sizeof(uint32_t), from + static_cast<ptrdiff_t>(want));
        begin_ += want;
        return frame;
      }
    }
    if (begin_ > 0) {
      std::memmove(buffer_.data(), &buffer_[begin_], have);
      begin_ = 0;
      end_ = have;
    }
    // Grows as data arrives, not because a length says so.
    if (buffer_.size() - end_ < kReadBytes) {
      buffer_.resize(std::max(end_ + kReadBytes, std::min(want, buffer_.size() * 2)));
    }
    ssize_t got = read(fd_, &buffer_[end_], buffer_.size() - end_);
    if (got < 0 && errno == EINTR) continue;
    // A peer that goes without reading all that was sent resets the stream; it is gone all the
    // same.
    if (got < 0 && errno == ECONNRESET) got = 0;
    if (got < 0) return fail(Code::kIo, std::string("reading: ") + std::strerror(errno));
    if (got == 0 && have > 0) return fail(Code::kCorrupt, "the stream ended within a frame");
    if (got == 0) return std::nullopt;
    end_ += static_cast<size_t>(got);
    if (want < kReadBytes && buffer_.size() > 4 * kReadBytes && end_ <= kReadBytes) {
      buffer_.resize(kReadBytes);  // an image went by
      buffer_.shrink_to_fit();
    }
  }
}

void Outbox::send(flatbuffers::DetachedBuffer frame) {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [this] { return waiting_bytes_ < kOutboxBytesMax || failed_; });
  if (failed_) return;
  waiting_bytes_ += frame.size();
  waiting_.push_back(std::move(frame));
  if (writing_) return;
  writing_ = true;
  while (!waiting_.empty()) {
    std::vector<flatbuffers::DetachedBuffer> batch;
    batch.swap(waiting_);
    waiting_bytes_ = 0;
    lock.unlock();
    room_.notify_all();
    bool written = write_all(batch);
    lock.lock();
    if (!written) {
      failed_ = true;
      waiting_.clear();
      room_.notify_all();
    }
  }
  writing_ = false;
}

bool Outbox::write_all(std::vector<flatbuffers::DetachedBuffer>& frames) {
  for (size_t done = 0; done < frames.size();) {
    size_t count = std::min(kFramesPerWrite, frames.size() - done);
    if (!write_some(&frames[done], count)) return false;
    done += count;
  }
  return true;
}

bool Outbox::write_some(const flatbuffers::DetachedBuffer* frames, size_t count) {
  std::array<uint32_t, kFramesPerWrite> lengths;
  std::array<iovec, kFramesPerWrite * 2> parts;
  for (size_t i = 0; i < count; i++) {
    lengths[i] = htole32(static_cast<uint32_t>(frames[i].size()));
    parts[2 * i] = {&lengths[i], sizeof(uint32_t)};
    parts[2 * i + 1] = {const_cast<uint8_t*>(frames[i].data()), frames[i].size()};
  }
  iovec* at = parts.data();
  size_t left = count * 2;
  while (left > 0) {
    msghdr message = {};
    message.msg_iov = at;
    message.msg_iovlen = left;
    ssize_t put = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    auto bytes = static_cast<size_t>(put);
    while (left > 0 && bytes >= at->iov_len) {
      bytes -= at->iov_len;
      at++;
      left--;
    }
    if (left > 0) {
      at->iov_base = static_cast<uint8_t*>(at->iov_base) + bytes;
      at->iov_len -= bytes;
    }
  }
  return true;
}

}  // namespace sluice::executor
