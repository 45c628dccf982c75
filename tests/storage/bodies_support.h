#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "tests/storage/support.h"

namespace sluice::storage {

// Cuts `bytes` into chunks of `chunk_bytes`, which a test may choose: a body is what its chunks
// hold, one after the other.
inline void put_chunks(Batch& batch, const Body& body, std::string_view bytes, size_t chunk_bytes) {
  auto count = static_cast<uint32_t>((bytes.size() + chunk_bytes - 1) / chunk_bytes);
  for (uint32_t index = 0; index < count; ++index) {
    batch.chunks.push_back(
        {body.id(), index, count, std::string(bytes.substr(index * chunk_bytes, chunk_bytes))});
  }
}

inline BodyPtr put_body(Store& store, Batch& batch, std::string_view bytes, size_t chunk_bytes) {
  BodyPtr body = store.new_body(bytes.size());
  put_chunks(batch, *body, bytes, chunk_bytes);
  return body;
}

inline RecordPtr record_with(BodyPtr body, std::string_view routing_key = "key") {
  return Record::make({.exchange = "exchange",
                       .routing_key = routing_key,
                       .properties = {},
                       .body = {},
                       .published_at_ms = 1,
                       .external = std::move(body)});
}

// Fails the test where the body can not be read.
inline std::string read_body(Store& store, const Body& body) {
  std::string bytes;
  for (uint32_t index = 0; bytes.size() < body.bytes(); ++index) {
    auto chunk = store.read_chunk(body.id(), index);
    if (!chunk) {
      ADD_FAILURE() << chunk.error().message;
      break;
    }
    bytes += *chunk;
  }
  return bytes;
}

// Waits until the body's first chunk is deleted; false after a long time.
inline bool gone(Store& store, BodyId body) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    auto chunk = store.read_chunk(body, 0);
    if (!chunk && chunk.error().code == Code::kNotFound) return true;
    std::this_thread::yield();
  }
  return false;
}

// The bodies that have chunks in a directory that is not in use.
inline std::set<BodyId> stored_bodies(const std::string& directory) {
  Watermarks watermarks;
  Engine engine;
  auto opened = open_engine(directory, nullptr, watermarks, kMessageBufferBytes, engine);
  EXPECT_TRUE(opened) << opened.error().message;
  std::set<BodyId> bodies;
  if (!opened) return bodies;
  std::unique_ptr<rocksdb::Iterator> at(engine.db->NewIterator({}, engine.bodies));
  for (at->SeekToFirst(); at->Valid(); at->Next()) bodies.insert(ChunkKey::body(at->key().data()));
  EXPECT_TRUE(at->status().ok()) << at->status().ToString();
  return bodies;
}

inline uint64_t bytes_in(const std::string& directory) {
  uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(directory, ignored)) {
    uint64_t size = file.file_size(ignored);
    if (!ignored) bytes += size;
  }
  return bytes;
}

}  // namespace sluice::storage
