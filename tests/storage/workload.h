#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "storage/store.h"

namespace sluice::storage {

// What a store must hold.
struct Model {
  struct Queue {
    Sequence watermark = 1;
    std::map<Sequence, uint32_t> attempts;  // of each message that is there
    std::set<ScheduleKey> scheduled;
    uint64_t next_number = 1;
    std::set<uint64_t> ids;  // by their numbers
    bool operator==(const Queue&) const = default;
  };
  std::map<QueueId, Queue> queues;
  std::map<std::string, std::string> catalog;
  bool operator==(const Model&) const = default;
};

// A random sequence of batches that is the same for the same seed: publishing, external bodies in
// some queues, one, or none, consuming in order and out of order, retries, delayed messages that
// move to their queue, deduplication ids, definitions, queues that come and go. After n calls of
// next(), model() is what a store holds to which exactly the first n batches were committed.
class Workload {
 public:
  // With a store, external bodies get their numbers there; else they are good for the model only.
  explicit Workload(uint64_t seed, Store* store = nullptr) : random_(seed), store_(store) {}

  Batch next();
  const Model& model() const { return model_; }

 private:
  uint64_t below(uint64_t limit) { return random_() % limit; }
  QueueId some_queue();
  void publish(Batch& batch);
  void publish_external(Batch& batch);
  void consume(Batch& batch);
  void delay(Batch& batch);
  void move_due(Batch& batch);
  void remember(Batch& batch);
  void advance_schedule(Batch& batch, QueueId queue);
  void retry(Batch& batch);
  void define(Batch& batch);

  std::mt19937_64 random_;
  Store* const store_;
  const std::shared_ptr<HeldBodies> held_ = std::make_shared<HeldBodies>();
  uint64_t bodies_ = 0;
  Model model_;
  std::map<QueueId, Sequence> next_sequence_;
  std::map<std::pair<QueueId, ScheduleKey>, RecordPtr> records_;  // of delayed messages
  QueueId next_queue_ = 1;
};

// What the store holds in the queues below `queue_end`. Fails the test where a message's body is
// not the one that was published under its sequence, or where anything cannot be read.
Model contents_of(Store& store, QueueId queue_end);

}  // namespace sluice::storage
