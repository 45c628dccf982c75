#include "storage/record.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"

namespace sluice::storage {

namespace {

Expected<const schema::Message*> verified(std::span<const uint8_t> bytes) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  if (!schema::VerifyMessageBuffer(verifier)) {
    return fail(Code::kCorrupt, "a stored message fails the FlatBuffers verifier");
  }
  return schema::GetMessage(bytes.data());
}

// Room for the table, its vtable and the vectors' length fields, so that the builder allocates
// once.
constexpr size_t kTableBytes = 128;

// A sum that threads add to, each in larger pieces: a record that is read by one thread and freed
// by another would move the sum's cache line between their cores twice.
constexpr ptrdiff_t kUncountedBytesMax = 16 << 10;
std::atomic<ptrdiff_t> counted_bytes = 0;

struct Uncounted {
  ptrdiff_t bytes = 0;

  ~Uncounted() { tell(); }
  void tell() { counted_bytes.fetch_add(std::exchange(bytes, 0), std::memory_order_relaxed); }
};
thread_local Uncounted uncounted;

}  // namespace

size_t Record::resident_bytes() {
  // Others may have told of what they freed before those told that made it.
  ptrdiff_t bytes = counted_bytes.load(std::memory_order_relaxed) + uncounted.bytes;
  return static_cast<size_t>(std::max<ptrdiff_t>(bytes, 0));
}

void Record::count(ptrdiff_t bytes) {
  uncounted.bytes += bytes;
  if (std::abs(uncounted.bytes) >= kUncountedBytesMax) uncounted.tell();
}

RecordPtr Record::make(const Parts& parts) {
  CHECK(parts.external == nullptr || parts.body.empty());
  flatbuffers::FlatBufferBuilder builder(parts.exchange.size() + parts.routing_key.size() +
                                         parts.properties.size() + parts.body.size() + kTableBytes);
  auto body = builder.CreateVector(parts.body.data(), parts.body.size());
  auto properties = builder.CreateVector(parts.properties.data(), parts.properties.size());
  auto routing_key = builder.CreateString(parts.routing_key.data(), parts.routing_key.size());
  auto exchange = builder.CreateString(parts.exchange.data(), parts.exchange.size());
  builder.Finish(schema::CreateMessage(
      builder, exchange, routing_key, properties, body, parts.published_at_ms,
      parts.external ? parts.external->id() : 0, parts.external ? parts.external->bytes() : 0,
      parts.group, parts.ready_at_ms, parts.expires_at_ms));
  return std::make_shared<const Record>(builder.Release(), parts.external);
}

Expected<RecordPtr> Record::from_bytes(std::span<const uint8_t> bytes, HeldBodies& held) {
  flatbuffers::DefaultAllocator allocator;
  uint8_t* copy = allocator.allocate(bytes.size());
  if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
  flatbuffers::DetachedBuffer buffer(nullptr, false, copy, bytes.size(), copy, bytes.size());
  auto checked = verified({buffer.data(), buffer.size()});
  if (!checked) return std::unexpected(checked.error());
  const schema::Message& message = **checked;
  BodyPtr external;
  if (message.body_id() != 0) external = held.hold(message.body_id(), message.body_bytes());
  return std::make_shared<const Record>(std::move(buffer), std::move(external));
}

Expected<uint64_t> Record::body_bytes_of(std::span<const uint8_t> bytes) {
  // The numbers in it are read where they lie, which has to be where numbers may.
  std::vector<uint64_t> aligned((bytes.size() + 7) / 8);
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  auto message = verified({reinterpret_cast<const uint8_t*>(aligned.data()), bytes.size()});
  if (!message) return std::unexpected(message.error());
  if ((*message)->body_id() != 0) return (*message)->body_bytes();
  return (*message)->body() != nullptr ? (*message)->body()->size() : 0;
}

}  // namespace sluice::storage
