#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <set>
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
  std::map<std::pair<storage::QueueId, storage::Sequence>, uint32_t> attempts;
  std::map<storage::QueueId, storage::Batch::Advance> positions;
  std::map<std::pair<storage::BodyId, uint32_t>, std::string> chunks;
  std::map<std::pair<storage::QueueId, storage::ScheduleKey>, storage::RecordPtr> scheduled;
  std::map<storage::QueueId, storage::SchedulePosition> schedule_positions;
  std::set<storage::QueueId> expiring_queues;
  std::map<std::pair<storage::QueueId, storage::DedupHash>, storage::DedupEntry> ids;
  std::map<storage::QueueId, storage::DedupPosition> dedup_positions;
  std::shared_ptr<storage::HeldBodies> held = std::make_shared<storage::HeldBodies>();
  storage::BodyId last_body = 0;
  size_t writes = 0;
  std::atomic<size_t> reads = 0;

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
    storage::Batch::Advance stored{queue, 1};
    if (positions.contains(queue)) stored = positions[queue];
    storage::QueuePosition position{.watermark = stored.watermark,
                                    .next = std::max(stored.watermark, stored.below),
                                    .count = stored.count,
                                    .bytes = stored.bytes,
                                    .purged = stored.purged};
    auto end = messages.lower_bound({queue + 1, 0});
    for (auto at = messages.lower_bound({queue, position.next}); at != end; ++at) {
      ++position.count;
      position.bytes += at->second->body_bytes();
      position.next = at->first.second + 1;
    }
    position.delivered = position.next;
    return position;
  }
  Expected<std::vector<storage::QueueId>> queues() override {
    std::vector<storage::QueueId> found;
    for (const auto& [queue, position] : positions) found.push_back(queue);
    return found;
  }
  // From any thread, as the interface says: the test writes only between turns of the loop.
  Expected<std::vector<storage::StoredMessage>> read(storage::QueueId queue,
                                                     storage::SequenceRange range, size_t count_max,
                                                     size_t bytes_max) override {
    std::lock_guard lock(mutex_);
    ++reads;
    std::vector<storage::StoredMessage> page;
    size_t bytes = 0;
    for (auto at = messages.lower_bound({queue, range.first});
         at != messages.end() && at->first < std::pair(queue, range.end); ++at) {
      if (page.size() == count_max || bytes > bytes_max) break;
      bytes += at->second->bytes().size();
      auto tried = attempts.find(at->first);
      page.push_back({at->first.second, tried == attempts.end() ? 0 : tried->second, at->second});
    }
    return page;
  }
  Expected<std::vector<storage::Sequence>> group(storage::QueueId queue, uint64_t group,
                                                 storage::SequenceRange range,
                                                 size_t count_max) override {
    std::lock_guard lock(mutex_);
    std::vector<storage::Sequence> found;
    for (auto at = messages.lower_bound({queue, range.first});
         at != messages.end() && at->first < std::pair(queue, range.end); ++at) {
      if (found.size() == count_max) break;
      if (at->second->group() == group) found.push_back(at->first.second);
    }
    return found;
  }
  Expected<storage::SchedulePosition> schedule(storage::QueueId queue) override {
    return schedule_positions[queue];
  }
  Expected<bool> expiring(storage::QueueId queue) override {
    return expiring_queues.contains(queue);
  }
  Expected<storage::DedupPosition> dedup(storage::QueueId queue) override {
    return dedup_positions[queue];
  }
  Expected<std::vector<storage::ScheduledMessage>> read_schedule(storage::QueueId queue,
                                                                 storage::ScheduleKey from,
                                                                 size_t count_max,
                                                                 size_t bytes_max) override {
    std::lock_guard lock(mutex_);
    ++reads;
    std::vector<storage::ScheduledMessage> page;
    size_t bytes = 0;
    for (auto at = scheduled.lower_bound({queue, from});
         at != scheduled.end() && at->first.first == queue; ++at) {
      if (page.size() == count_max || bytes > bytes_max) break;
      bytes += at->second->bytes().size();
      page.push_back({at->first.second, at->second});
    }
    return page;
  }
  Expected<std::optional<storage::DedupEntry>> find_id(storage::QueueId queue,
                                                       const storage::DedupHash& id) override {
    auto found = ids.find({queue, id});
    if (found == ids.end()) return std::optional<storage::DedupEntry>();
    return found->second;
  }
  void reclaim() override {}
  storage::BodyPtr new_body(uint64_t bytes) override { return held->hold(++last_body, bytes); }
  Expected<std::string> read_chunk(storage::BodyId body, uint32_t index) override {
    std::lock_guard lock(mutex_);
    auto found = chunks.find({body, index});
    if (found == chunks.end()) return fail(Code::kNotFound, "none");
    return found->second;
  }
  Expected<> close(const std::vector<Delivered>&) override { return {}; }

 private:
  void apply(const storage::Batch& batch) {
    std::lock_guard lock(mutex_);
    ++writes;
    for (const auto& chunk : batch.chunks) chunks[{chunk.body, chunk.index}] = chunk.bytes;
    for (const auto& append : batch.appends) {
      if (append.record == nullptr) continue;
      messages[{append.queue, append.sequence}] = append.record;
      if (append.attempts > 0) attempts[{append.queue, append.sequence}] = append.attempts;
    }
    for (const auto& tried : batch.attempts) attempts[{tried.queue, tried.sequence}] = tried.count;
    for (const auto& advance : batch.advances) {
      positions[advance.queue] = advance;
      messages.erase(messages.lower_bound({advance.queue, 0}),
                     messages.lower_bound({advance.queue, advance.watermark}));
    }
    for (const auto& remove : batch.removes) messages.erase({remove.queue, remove.sequence});
    std::erase_if(attempts, [&](const auto& tried) { return !messages.contains(tried.first); });
    for (const auto& schedule : batch.schedules) {
      if (schedule.record != nullptr) scheduled[{schedule.queue, schedule.key}] = schedule.record;
    }
    for (const auto& unschedule : batch.unschedules) {
      scheduled.erase({unschedule.queue, unschedule.key});
    }
    for (const auto& advance : batch.schedule_advances) {
      schedule_positions[advance.queue] = advance.position;
    }
    expiring_queues.insert(batch.expiring_queues.begin(), batch.expiring_queues.end());
    for (const auto& remember : batch.remembers)
      ids[{remember.queue, remember.id}] = remember.entry;
    for (const auto& advance : batch.dedup_advances) {
      dedup_positions[advance.queue] = advance.position;
    }
    for (storage::QueueId queue : batch.dropped_queues) {
      positions.erase(queue);
      messages.erase(messages.lower_bound({queue, 0}), messages.lower_bound({queue + 1, 0}));
      scheduled.erase(scheduled.lower_bound({queue, {}}), scheduled.lower_bound({queue + 1, {}}));
      schedule_positions.erase(queue);
      expiring_queues.erase(queue);
      ids.erase(ids.lower_bound({queue, {}}), ids.lower_bound({queue + 1, {}}));
      dedup_positions.erase(queue);
    }
  }

  std::mutex mutex_;
};

}  // namespace sluice::broker
