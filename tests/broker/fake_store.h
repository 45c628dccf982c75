#pragma once

#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "storage/store.h"

namespace sluice::broker {

// A store in RAM whose commits end when the test says so. Single-threaded.
class FakeStore : public storage::Store {
 public:
  struct Waiting {
    std::unique_ptr<storage::Batch> batch;
    Committed done;
  };
  std::deque<Waiting> waiting;
  std::map<std::pair<storage::QueueId, storage::Sequence>, storage::RecordPtr> messages;
  std::map<storage::QueueId, storage::Sequence> watermarks;
  std::map<std::pair<storage::BodyId, uint32_t>, std::string> chunks;
  std::shared_ptr<storage::HeldBodies> held = std::make_shared<storage::HeldBodies>();
  storage::BodyId last_body = 0;
  size_t writes = 0;

  void commit(std::unique_ptr<storage::Batch> batch, Committed done) override {
    waiting.push_back({std::move(batch), std::move(done)});
  }

  // Ends the oldest commit, with an error where one is given.
  void finish(Expected<> outcome = {}) {
    Waiting next = std::move(waiting.front());
    waiting.pop_front();
    if (outcome) apply(*next.batch);
    next.done(std::move(next.batch), std::move(outcome));
  }

  Expected<std::vector<storage::CatalogEntry>> catalog(storage::CatalogKind) override {
    return std::vector<storage::CatalogEntry>();
  }
  Expected<std::string> blob(std::string_view) override { return fail(Code::kNotFound, "none"); }
  Expected<storage::QueuePosition> position(storage::QueueId queue) override {
    storage::QueuePosition position;
    position.watermark = watermarks.contains(queue) ? watermarks[queue] : 1;
    position.next = position.watermark;
    for (const auto& [key, record] : messages) {
      if (key.first == queue) position.next = std::max(position.next, key.second + 1);
    }
    position.delivered = position.next;
    return position;
  }
  Expected<std::vector<storage::StoredMessage>> read(storage::QueueId queue, storage::Sequence from,
                                                     size_t count_max, size_t) override {
    std::vector<storage::StoredMessage> page;
    for (auto at = messages.lower_bound({queue, from});
         at != messages.end() && at->first.first == queue && page.size() < count_max; ++at) {
      page.push_back({at->first.second, 0, at->second});
    }
    return page;
  }
  storage::BodyPtr new_body(uint64_t bytes) override { return held->hold(++last_body, bytes); }
  Expected<std::string> read_chunk(storage::BodyId body, uint32_t index) override {
    auto found = chunks.find({body, index});
    if (found == chunks.end()) return fail(Code::kNotFound, "none");
    return found->second;
  }
  Expected<> close(const std::vector<Delivered>&) override { return {}; }

 private:
  void apply(const storage::Batch& batch) {
    ++writes;
    for (const auto& chunk : batch.chunks) chunks[{chunk.body, chunk.index}] = chunk.bytes;
    for (const auto& append : batch.appends) {
      if (append.record != nullptr) messages[{append.queue, append.sequence}] = append.record;
    }
    for (const auto& advance : batch.advances) {
      watermarks[advance.queue] = advance.watermark;
      messages.erase(messages.lower_bound({advance.queue, 0}),
                     messages.lower_bound({advance.queue, advance.watermark}));
    }
    for (const auto& remove : batch.removes) messages.erase({remove.queue, remove.sequence});
    for (storage::QueueId queue : batch.dropped_queues) {
      messages.erase(messages.lower_bound({queue, 0}), messages.lower_bound({queue + 1, 0}));
    }
  }
};

}  // namespace sluice::broker
