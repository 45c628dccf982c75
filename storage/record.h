#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <flatbuffers/flatbuffers.h>

#include "base/error.h"
#include "schemas/message_generated.h"
#include "storage/body.h"

namespace sluice::storage {

// A message: an immutable serialised schemas/message.fbs buffer. What is queued in RAM and what
// lies on disk are the same bytes; one Record may sit in many queues at once. Safe to read from any
// thread; the last RecordPtr frees it.
class Record {
 public:
  // What a Record is made of. The spans are copied.
  struct Parts {
    std::string_view exchange;
    std::string_view routing_key;
    std::span<const uint8_t> properties;
    std::span<const uint8_t> body;
    int64_t published_at_ms = 0;
    BodyPtr external;    // instead of `body`
    uint64_t group = 0;  // see group()
    // ms since the epoch; 0: none.
    int64_t ready_at_ms = 0;
    int64_t expires_at_ms = 0;
  };

  static std::shared_ptr<const Record> make(const Parts& parts);

  // Takes bytes that were read from disk. kCorrupt unless they pass the FlatBuffers verifier. An
  // external body is held by `held`.
  static Expected<std::shared_ptr<const Record>> from_bytes(std::span<const uint8_t> bytes,
                                                            HeldBodies& held);

  std::span<const uint8_t> bytes() const { return {buffer_.data(), buffer_.size()}; }
  std::string_view exchange() const { return view(message().exchange()); }
  std::string_view routing_key() const { return view(message().routing_key()); }
  std::span<const uint8_t> properties() const { return view(message().properties()); }
  // Empty where the body is external.
  std::span<const uint8_t> body() const { return view(message().body()); }
  // Null where the body is in the record.
  const BodyPtr& external() const { return external_; }
  uint64_t body_bytes() const { return external_ ? external_->bytes() : body().size(); }
  int64_t published_at_ms() const { return message().published_at_ms(); }
  // Which messages have to keep their order; 0: of no group.
  uint64_t group() const { return message().group(); }

  // body_bytes() of a record that was read from disk. kCorrupt as from_bytes().
  static Expected<uint64_t> body_bytes_of(std::span<const uint8_t> bytes);
  // Not to be handed out before `ready_at_ms`, nor from `expires_at_ms` on; 0: none.
  int64_t ready_at_ms() const { return message().ready_at_ms(); }
  int64_t expires_at_ms() const { return message().expires_at_ms(); }
  // Whether it has either: without a look into the buffer, because most have not.
  bool timed() const { return timed_; }

  // What all records of the process take, their bookkeeping included; but for what other threads
  // have not told yet, at most kUncountedBytesMax (record.cc) each.
  static size_t resident_bytes();

  Record(flatbuffers::DetachedBuffer buffer, BodyPtr external)
      : buffer_(std::move(buffer)),
        external_(std::move(external)),
        timed_(message().ready_at_ms() != 0 || message().expires_at_ms() != 0) {
    count(static_cast<ptrdiff_t>(footprint()));
  }
  ~Record() { count(-static_cast<ptrdiff_t>(footprint())); }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

 private:
  // A record's own fields, its counts, and what the allocator adds.
  static constexpr size_t kOverheadBytes = 120;
  size_t footprint() const { return buffer_.size() + kOverheadBytes; }
  static void count(ptrdiff_t bytes);

  const schema::Message& message() const { return *schema::GetMessage(buffer_.data()); }
  static std::string_view view(const flatbuffers::String* s) {
    return s ? std::string_view(s->c_str(), s->size()) : std::string_view();
  }
  static std::span<const uint8_t> view(const flatbuffers::Vector<uint8_t>* v) {
    return v ? std::span<const uint8_t>(v->data(), v->size()) : std::span<const uint8_t>();
  }

  flatbuffers::DetachedBuffer buffer_;
  BodyPtr external_;
  const bool timed_;
};

using RecordPtr = std::shared_ptr<const Record>;

}  // namespace sluice::storage
