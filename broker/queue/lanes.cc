#include "broker/queue/lanes.h"

#include <algorithm>

namespace sluice::broker {

Lanes::Lanes(Journal& journal, ResidentSet& resident, storage::QueueId id, uint8_t priority_max,
             bool durable, std::function<void()> arrived)
    : journal_(journal),
      resident_(resident),
      id_(id),
      durable_(durable),
      arrived_(std::move(arrived)),
      lanes_(size_t{priority_max} + 1) {
  lane(0);
}

Backlog& Lanes::lane(uint8_t priority) {
  auto& lane = lanes_[priority];
  if (lane == nullptr) {
    lane = std::make_shared<Backlog>(journal_, resident_, id_ + priority, priority, durable_,
                                     arrived_);
  }
  return *lane;
}

size_t Lanes::ready_count() const {
  size_t count = 0;
  for (const auto& lane : lanes_) count += lane != nullptr ? lane->ready_count() : 0;
  return count;
}

uint64_t Lanes::ready_bytes() const {
  uint64_t bytes = 0;
  for (const auto& lane : lanes_) bytes += lane != nullptr ? lane->ready_bytes() : 0;
  return bytes;
}

bool Lanes::push(storage::RecordPtr record, uint8_t priority, bool persistent) {
  size_t level = record->group() != 0 ? 0 : std::min<size_t>(priority, lanes_.size() - 1);
  return lane(static_cast<uint8_t>(level)).push(std::move(record), persistent);
}

Backlog* Lanes::next_resident() {
  for (size_t level = lanes_.size(); level-- > 0;) {
    Backlog* lane = lanes_[level].get();
    if (lane == nullptr || lane->ready_count() == 0) continue;
    return lane->next_is_resident() ? lane : nullptr;
  }
  return nullptr;
}

Backlog* Lanes::load_next() {
  for (size_t level = lanes_.size(); level-- > 0;) {
    Backlog* lane = lanes_[level].get();
    if (lane == nullptr || lane->ready_count() == 0) continue;
    return lane->load_next() ? lane : nullptr;
  }
  return nullptr;
}

Backlog* Lanes::lowest() {
  for (const auto& lane : lanes_) {
    if (lane != nullptr && lane->ready_count() > 0) return lane.get();
  }
  return nullptr;
}

size_t Lanes::purge() {
  size_t count = 0;
  for (const auto& lane : lanes_) count += lane != nullptr ? lane->purge() : 0;
  return count;
}

std::vector<Entry> Lanes::peek(size_t count_max) {
  std::vector<Entry> entries;
  for (size_t level = lanes_.size(); level-- > 0;) {
    if (lanes_[level] == nullptr || entries.size() == count_max) continue;
    for (Entry& entry : lanes_[level]->peek(count_max - entries.size())) {
      entries.push_back(std::move(entry));
    }
  }
  return entries;
}

Expected<> Lanes::recover(storage::Store& store, std::span<const storage::QueueId> stored) {
  if (auto done = lanes_[0]->recover(store); !done) return done;
  for (auto id = std::ranges::upper_bound(stored, id_);
       id != stored.end() && *id < id_ + lanes_.size(); ++id) {
    if (auto done = lane(static_cast<uint8_t>(*id - id_)).recover(store); !done) return done;
  }
  return {};
}

void Lanes::drop() {
  for (const auto& lane : lanes_) {
    if (lane != nullptr) lane->drop();
  }
}

void Lanes::collect_delivered(std::vector<storage::Store::Delivered>& delivered) const {
  for (const auto& lane : lanes_) {
    if (lane != nullptr) delivered.push_back({lane->id(), lane->delivered_below()});
  }
}

}  // namespace sluice::broker
