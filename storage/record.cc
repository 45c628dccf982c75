#include "storage/record.h"

#include <cstring>

namespace sluice::storage {

namespace {
// Room for the table, its vtable and the vectors' length fields, so that the builder allocates
// once.
constexpr size_t kTableBytes = 128;
}  // namespace

RecordPtr Record::make(const Parts& parts) {
  flatbuffers::FlatBufferBuilder builder(parts.exchange.size() + parts.routing_key.size() +
                                         parts.properties.size() + parts.body.size() +
                                         kTableBytes);
  auto body = builder.CreateVector(parts.body.data(), parts.body.size());
  auto properties = builder.CreateVector(parts.properties.data(), parts.properties.size());
  auto routing_key = builder.CreateString(parts.routing_key.data(), parts.routing_key.size());
  auto exchange = builder.CreateString(parts.exchange.data(), parts.exchange.size());
  builder.Finish(schema::CreateMessage(builder, exchange, routing_key, properties, body,
                                       parts.published_at_ms));
  return std::make_shared<const Record>(builder.Release());
}

Expected<RecordPtr> Record::from_bytes(std::span<const uint8_t> bytes) {
  flatbuffers::DefaultAllocator allocator;
  uint8_t* copy = allocator.allocate(bytes.size());
  if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
  flatbuffers::DetachedBuffer buffer(nullptr, false, copy, bytes.size(), copy, bytes.size());
  flatbuffers::Verifier verifier(buffer.data(), buffer.size());
  if (!schema::VerifyMessageBuffer(verifier)) {
    return fail(Code::kCorrupt, "a stored message fails the FlatBuffers verifier");
  }
  return std::make_shared<const Record>(std::move(buffer));
}

}  // namespace sluice::storage
