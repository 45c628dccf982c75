#pragma once

#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "storage/rocksdb/rocksdb_store.h"
#include "storage/store.h"

namespace sluice::storage {

// A directory of this test's own, gone with it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline RecordPtr record_of(std::string_view body, std::string_view routing_key = "key") {
  return Record::make({.exchange = "exchange",
                       .routing_key = routing_key,
                       .properties = {},
                       .body = {reinterpret_cast<const uint8_t*>(body.data()), body.size()},
                       .published_at_ms = 1});
}

inline std::string body_of(const StoredMessage& message) {
  auto body = message.record->body();
  return {body.begin(), body.end()};
}

// Fails the test where the store does not open.
inline std::unique_ptr<Store> open_or_fail(const std::string& directory,
                                           rocksdb::Env* env = nullptr) {
  auto store = open_rocksdb({.directory = directory, .env = env});
  if (store) return *std::move(store);
  ADD_FAILURE() << store.error().message;
  return nullptr;
}

// Hands the batch over; the future has what the committer said.
inline std::future<Expected<>> commit(Store& store, Batch batch) {
  auto done = std::make_shared<std::promise<Expected<>>>();
  auto result = done->get_future();
  store.commit(std::make_unique<Batch>(std::move(batch)),
               [done](std::unique_ptr<Batch>, Expected<> outcome) { done->set_value(outcome); });
  return result;
}

inline void commit_or_fail(Store& store, Batch batch) {
  auto outcome = commit(store, std::move(batch)).get();
  EXPECT_TRUE(outcome) << outcome.error().message;
}

inline Batch append(QueueId queue, Sequence first, Sequence last, std::string_view prefix = "m") {
  Batch batch;
  for (Sequence at = first; at <= last; ++at) {
    batch.appends.push_back({queue, at, record_of(std::string(prefix) + std::to_string(at))});
  }
  return batch;
}

inline Batch advance(QueueId queue, Sequence watermark) {
  Batch batch;
  batch.advances.push_back({queue, watermark});
  return batch;
}

inline Batch remove(QueueId queue, const std::vector<Sequence>& sequences) {
  Batch batch;
  for (Sequence at : sequences) batch.removes.push_back({queue, at});
  return batch;
}

inline Batch drop(QueueId queue) {
  Batch batch;
  batch.dropped_queues.push_back(queue);
  return batch;
}

inline std::vector<StoredMessage> all_of(Store& store, QueueId queue, Sequence from = 1) {
  auto found = store.read(queue, {from, ~Sequence{0}}, SIZE_MAX, SIZE_MAX);
  if (found) return *std::move(found);
  ADD_FAILURE() << found.error().message;
  return {};
}

inline std::vector<Sequence> sequences_of(Store& store, QueueId queue, Sequence from = 1) {
  std::vector<Sequence> found;
  for (const auto& message : all_of(store, queue, from)) found.push_back(message.sequence);
  return found;
}

inline QueuePosition position_of(Store& store, QueueId queue) {
  auto position = store.position(queue);
  if (position) return *position;
  ADD_FAILURE() << position.error().message;
  return {};
}

}  // namespace sluice::storage
