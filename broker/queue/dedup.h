#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string_view>

#include "broker/queue/journal.h"
#include "storage/store.h"

namespace sluice::broker {

// How long a queue remembers deduplication ids. At least one of both; where both are given the
// window ends with whichever comes first.
struct DedupSettings {
  std::optional<uint64_t> window_ms;
  std::optional<uint64_t> count_max;
};

// The deduplication ids that a queue met within its window. An id is one row in the store, which
// commits with its message; RAM holds those that are not committed yet, and some marks which tell
// how old the rows are, so that those which are too old go in bulk.
//
// Its time is the wall clock's but never goes back: where the clock does, ids stay for longer and
// none that was forgotten returns.
//
// On the shard's thread.
class DedupWindow {
 public:
  DedupWindow(Journal& journal, storage::QueueId queue, DedupSettings settings);

  // Whether the id was met within the window. Reads one row, which mostly a filter in RAM answers.
  bool contains(std::string_view id);
  // Remembers an id that it does not contain: with the gathering batch.
  void add(std::string_view id);

  // Those that RAM holds.
  size_t resident_count() const { return recent_.size(); }

  // Once, before anything else.
  void recover(storage::DedupPosition position) { position_ = std::move(position); }

 private:
  using Hash = storage::DedupHash;

  uint64_t now_ms() const;
  bool is_live(const storage::DedupEntry& entry) const;
  void forget_old();
  void changed();

  Journal& journal_;
  const storage::QueueId queue_;
  const DedupSettings settings_;
  storage::DedupPosition position_;

  // Met, and not known to be committed; in order with the batch that has them.
  struct Recent {
    Hash hash;
    uint64_t number;
    AppendSlot slot;
  };
  std::map<Hash, storage::DedupEntry> recent_;
  std::deque<Recent> order_;
  AppendSlot change_;  // where the gathering batch has our position
};

}  // namespace sluice::broker
