#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "broker/queue/groups.h"
#include "broker/queue/journal.h"
#include "broker/queue/resident_set.h"
#include "broker/queue/sequence_set.h"
#include "storage/store.h"

namespace sluice::broker {

// A message in a queue. Whoever takes one out gives it back exactly once: settle() or put_back().
struct Entry {
  storage::Sequence sequence = 0;
  storage::RecordPtr record;  // null: only on disk, see Backlog::release()
  uint64_t body_bytes = 0;
  uint64_t group = 0;     // the record's
  uint32_t attempts = 0;  // how often it was handed out and came back
  uint8_t priority = 0;   // of the backlog that it is in
  bool redelivered = false;
  bool failed_over = false;  // an executor was lost under it once
  bool stored = false;       // is on disk or on its way there
  uint32_t record_bytes = 0;
  AppendSlot slot;
};

// The messages of one queue, in their order, of which RAM holds two windows: the oldest, which are
// delivered next, and the newest, which were published last. What is between them lies in the store
// alone and is read ahead as the first window empties. So a queue costs the same memory whatever
// its length.
//
//   put back   |  head window  |  on disk only  |  tail window
//   (oldest)                                       (newest)
// Of each message group one message at a time is taken out, and the next one once that is settled.
// Those in between are passed over: they count as ready, lie in the store, and the first of them
// moves in front of the queue when its group is free (broker/queue/groups.h).
//
// Persistent messages are stored when they are published; transient ones when they no longer fit
// the windows. Consuming moves a watermark; what is consumed ahead of it is removed singly.
//
// On the shard's thread. Held by shared_ptr because reads and the journal come back to it.
class Backlog : public std::enable_shared_from_this<Backlog> {
 public:
  // `durable`: persistent messages are stored at once and are there after a restart. `arrived` is
  // called when messages that were waited for have been read.
  Backlog(Journal& journal, ResidentSet& resident, storage::QueueId id, uint8_t priority,
          bool durable, std::function<void()> arrived);
  ~Backlog();

  storage::QueueId id() const { return id_; }
  uint8_t priority() const { return priority_; }
  size_t ready_count() const;
  // Of their bodies.
  uint64_t ready_bytes() const { return ready_bytes_; }
  // Where the next message will be; for the store's clean stop: below it any may have been
  // delivered.
  storage::Sequence delivered_below() const { return delivered_below_; }

  // Appends a message. True where it is stored because it asked for it.
  bool push(storage::RecordPtr record, bool persistent);

  // Whether the oldest message that may be taken is in RAM. Where it is not, it is being read, and
  // `arrived` tells; or all that is ready waits for its groups, and settling tells.
  bool next_is_resident();
  // The same, but reads it now: for who must have an answer. False where there is none, or none was
  // found among the next kPassedOverPerFetch.
  bool load_next();
  // The oldest message that may be taken, which must be in RAM.
  const Entry& next();
  // Takes it out.
  Entry pop();

  // Whether pop_oldest() has nothing to read.
  bool oldest_is_resident();
  // Takes out the oldest message, whether it may be taken or not, to be settled in the same turn.
  // Reads it where it is not in RAM; nothing where there is none.
  std::optional<Entry> pop_oldest();

  // The message is done with: it leaves the queue for good. True where that lets another one of its
  // group be taken.
  bool settle(const Entry& entry);
  // The message goes back to its place.
  void put_back(Entry entry);
  // Where memory is short, drops the record of a message that was taken out, if it is on disk. It
  // may be put back without; for anything else reload() first. False where that fails.
  void release(Entry& entry) const;
  // Whether it can be read again, so that its record may be dropped.
  bool is_on_disk(const Entry& entry) const {
    return entry.stored && journal_.committed(entry.slot);
  }
  bool reload(Entry& entry);
  // Records how often the message came back.
  void note_attempts(const Entry& entry);

  // Removes all ready messages and returns how many there were, in time that does not depend on
  // it.
  size_t purge();
  // Copies of the first `count_max` ready messages; reads what is not in RAM.
  std::vector<Entry> peek(size_t count_max);

  // Loads what the store knows of it, not its messages. Once, before anything else.
  Expected<> recover(storage::Store& store);
  // Everything goes, in the store too.
  void drop();

  // For the journal: what changed since the last batch.
  void collect(storage::Batch& batch);
  // Gives memory back until the windows hold `bytes_max` at most, as far as what they hold is on
  // disk; what is not is written.
  void shrink(size_t bytes_max);
  size_t resident_bytes() const { return head_.bytes + tail_.bytes + passed_over_bytes(); }

 private:
  struct Window {
    std::deque<Entry> entries;
    size_t bytes = 0;  // of records

    void push_back(Entry entry);
    Entry pop_front();
    Entry pop_back();
  };
  // Messages that are in the store alone.
  struct OnDisk {
    storage::Sequence begin = 0, end = 0;
    uint64_t count = 0;
  };
  // Only where there are messages of groups.
  struct Grouped {
    Groups groups;
    // All that are out: what is below position_ and neither here nor given back nor passed over is
    // consumed.
    std::set<storage::Sequence> out;
    // Those passed over that are not committed, and more as there is room.
    std::map<storage::Sequence, Entry> kept;
    size_t kept_bytes = 0;  // of records
    bool waiting_commit = false;
  };

  size_t passed_over_bytes() const { return grouped_ ? grouped_->kept_bytes : 0; }
  void begin_groups();
  bool may_take(const Entry& entry);
  bool pass_over_head();
  size_t kept_bytes_max() const;
  bool room_to_keep(size_t record_bytes);
  void forget_kept(size_t bytes_max);
  Entry passed_over(storage::Sequence sequence, uint64_t group);
  std::optional<std::pair<storage::Sequence, uint64_t>> oldest_passed_over() const;
  void ask_index(uint64_t group);
  bool free_group(const Entry& entry);
  storage::Sequence lowest_unconsumed() const;
  void purge_passed_over();
  std::map<storage::Sequence, Entry> peek_passed_over(size_t count_max);

  bool head_is_resident();
  bool load_head();
  Entry pop_head();
  void taken_out(const Entry& entry);
  void came_back(const Entry& entry);
  bool consume(const Entry& entry);
  void store_now(Entry& entry);
  void forget_stored(const Entry& entry);
  void trim_tail(size_t bytes_max);
  void move_to_disk(const Entry& entry);
  size_t window_bytes_max() const;
  void update_residence();

  void read_ahead();
  bool take_page(storage::SequenceRange range, Journal::Page page);
  storage::SequenceRange unread() const;
  bool load_returned();
  Entry entry_of(storage::StoredMessage message) const;
  static void describe(Entry& entry, storage::RecordPtr record);
  static void fill(Entry& entry, storage::StoredMessage message);
  void changed();

  Journal& journal_;
  ResidentSet& resident_;
  const storage::QueueId id_;
  const uint8_t priority_;
  const bool durable_;
  const std::function<void()> arrived_;

  // Given back: always older than anything else, because that is taken in order.
  // Of groups, also those whose turn came; what is in here may be taken.
  std::map<storage::Sequence, Entry> returned_;
  Window head_;
  OnDisk disk_;
  Window tail_;
  storage::Sequence next_sequence_ = 1;
  // All below it were taken out at some time, or are no more.
  storage::Sequence position_ = 1;
  storage::Sequence delivered_below_ = 1;
  storage::Sequence recovered_delivered_ = 1;

  std::unique_ptr<Grouped> grouped_;
  uint64_t ready_bytes_ = 0;

  bool reading_ = false;
  uint64_t read_number_ = 0;  // of the read that is under way; others are ignored

  // What the store holds once the gathering batch is applied.
  uint64_t stored_count_ = 0;
  uint64_t stored_bytes_ = 0;
  uint64_t out_stored_count_ = 0;  // of these, what is taken out
  uint64_t out_stored_bytes_ = 0;
  storage::Sequence stored_below_ = 1;
  SequenceSet consumed_;
  std::vector<storage::SequenceRange> purged_;  // those of consumed_ that the store has as ranges
  struct Removed {
    storage::Sequence sequence;
    uint64_t group;
  };
  std::vector<Removed> unwritten_removes_;
  bool on_disk_ever_ = false;
  bool in_journal_ = false;
  uint32_t unsummed_count_ = 0;  // appends since the store was last told a sum
  size_t unsummed_bytes_ = 0;

  bool dropped_ = false;
  std::optional<std::list<Backlog*>::iterator> residence_;  // in resident_
  friend class ResidentSet;
};

}  // namespace sluice::broker
