#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "broker/queue/alarms.h"
#include "broker/queue/journal.h"
#include "storage/store.h"

namespace sluice::broker {

// The delayed messages of a queue: those that are not in it before they are due. All of them are
// stored, transient ones too; RAM holds the earliest few, in the order of their time and then of
// publishing, and those that are not written yet. A message that is due moves to its queue in one
// batch with what the queue does about it.
//
// Due times are the wall clock's. Where that jumps back messages wait for longer, where it jumps
// forward they come early; none is lost either way.
//
// On the shard's thread. Held by shared_ptr because reads come back to it.
class Schedule : public std::enable_shared_from_this<Schedule> {
 public:
  // Takes over a message that is due. May change the schedule, and end it.
  using Due = std::function<void(storage::RecordPtr)>;

  Schedule(Journal& journal, storage::QueueId queue, Due due);

  uint64_t count() const { return count_; }
  // Those that RAM holds.
  size_t resident_count() const { return entries_.size(); }

  // Adds a message; its record says when it is due.
  void push(storage::RecordPtr record);

  // Loads what the store knows, not the messages. Once, before anything else.
  void recover(const storage::SchedulePosition& position);
  // Ends it. What is stored goes with the queue.
  void drop();

 private:
  using Key = storage::ScheduleKey;
  using Page = Expected<std::vector<storage::ScheduledMessage>>;
  static constexpr Key kEnd = {~uint64_t{0}, ~uint64_t{0}};

  struct Entry {
    storage::RecordPtr record;
    AppendSlot slot;
  };

  bool first_is_known() const;
  void release();
  storage::RecordPtr take_first();
  void into_window(const Entry& entry);
  void out_of_window(const Entry& entry);
  void wait();
  void read();
  void take_page(Page page);
  void trim();
  void changed();

  Journal& journal_;
  const storage::QueueId queue_;
  const Due due_;
  Alarm alarm_;

  // All messages before `horizon_`, which are the window, and of those behind it at least all that
  // are not committed yet, which no read would find.
  std::map<Key, Entry> entries_;
  size_t window_count_ = 0;
  size_t window_bytes_ = 0;
  Key horizon_ = kEnd;
  // Not known to be committed: messages in the order of publishing, and those that were taken,
  // which a read would still find.
  std::deque<std::pair<Key, AppendSlot>> unwritten_;
  std::map<Key, AppendSlot> taken_;
  uint64_t count_ = 0;
  uint64_t next_number_ = 1;
  bool reading_ = false;
  bool dropped_ = false;
  AppendSlot change_;  // where the gathering batch has our position
};

}  // namespace sluice::broker
