#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "broker/queue/backlog.h"
#include "storage/store.h"

namespace sluice::broker {

// The messages of one queue by their priority: a backlog for each level, with the storage ids
// `id`..`id + priority_max`. A level comes into being with its first message; until then it is a
// null pointer here and nothing in the store. The highest level that has a message goes first;
// within a level see Backlog. Messages of groups all lie at level 0: their order goes before their
// priority.
//
// On the shard's thread.
class Lanes {
 public:
  // Parameters as Backlog's.
  Lanes(Journal& journal, ResidentSet& resident, storage::QueueId id, uint8_t priority_max,
        bool durable, std::function<void()> arrived);

  storage::QueueId id() const { return id_; }
  size_t ready_count() const;
  uint64_t ready_bytes() const;

  // True where the message is stored because it asked for it.
  bool push(storage::RecordPtr record, uint8_t priority, bool persistent);

  // The backlog whose turn it is, if its next message is in RAM; otherwise see Backlog.
  Backlog* next_resident();
  // The same, but reads it.
  Backlog* load_next();
  // The lowest level that has a message; null where none has.
  Backlog* lowest();
  // The one that a message was taken from. Not after drop().
  Backlog& of(const Entry& entry) const { return *lanes_[entry.priority]; }

  size_t purge();
  std::vector<Entry> peek(size_t count_max);

  // Which levels there are is told by `stored`, the queues that the store knows, in order.
  Expected<> recover(storage::Store& store, std::span<const storage::QueueId> stored);
  void drop();
  // For the store's clean stop.
  void collect_delivered(std::vector<storage::Store::Delivered>& delivered) const;

 private:
  Backlog& lane(uint8_t priority);

  Journal& journal_;
  ResidentSet& resident_;
  const storage::QueueId id_;
  const bool durable_;
  const std::function<void()> arrived_;
  std::vector<std::shared_ptr<Backlog>> lanes_;  // by priority; level 0 is always there
};

}  // namespace sluice::broker
