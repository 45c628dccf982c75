#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "storage/record.h"

namespace sluice::storage {

// Never reused, also not after the queue is deleted. 0 is no queue.
using QueueId = uint64_t;
// Position in a queue, from 1, in the order of publishing. Never reused within a queue as long as
// anything was stored under it.
using Sequence = uint64_t;

// [first, end)
struct SequenceRange {
  Sequence first;
  Sequence end;
  bool operator==(const SequenceRange&) const = default;
};

// The kinds of definition the catalog holds; values are schemas/catalog.fbs records, which the
// store neither reads nor checks.
enum class CatalogKind : uint8_t { kQueue = 1, kExchange, kBinding, kFunction, kSubscription };

struct CatalogEntry {
  std::string key;  // unique within its kind
  std::string value;
};

// Holds batches together that different shards make: none of them is written before all are handed
// over, and then they are one write. Each batch that holds the tie counts as one party.
class Tie {
 public:
  explicit Tie(uint32_t parties) : missing_(parties) {}

 private:
  friend class Committer;
  uint32_t missing_;  // batches that were not handed over yet; the committer's
};

// The place of a delayed message in its queue's schedule: when it is due, wall clock in ms since
// the epoch, and a number that tells those apart which are due at the same time. Never used again.
struct ScheduleKey {
  uint64_t due_ms = 0;
  uint64_t number = 0;
  auto operator<=>(const ScheduleKey&) const = default;
};

// What is known of a queue's schedule without reading it.
struct SchedulePosition {
  uint64_t first_due_ms = 0;  // nothing in it is due before
  uint64_t next_number = 1;
  uint64_t count = 0;
  bool operator==(const SchedulePosition&) const = default;
};

// A message's deduplication id, hashed.
using DedupHash = std::array<uint8_t, 16>;

// When a queue met an id, and how many it had met before.
struct DedupEntry {
  uint64_t number = 0;
  uint64_t at_ms = 0;
  bool operator==(const DedupEntry&) const = default;
};

// Where a queue's window of ids stands: those with a number below `watermark` are forgotten. The
// marks are some of the entries, in their order: by them a time becomes a watermark.
struct DedupPosition {
  uint64_t watermark = 1;
  uint64_t next_number = 1;
  uint64_t last_at_ms = 0;
  std::vector<DedupEntry> marks;
  bool operator==(const DedupPosition&) const = default;
};

// Changes that become durable together or not at all. Built and owned by one shard; it is the
// committer's between commit() and the callback. The order of the members is the order in which
// they apply: definitions first, so a message never precedes its queue.
class Batch {
 public:
  struct Append {
    QueueId queue;
    Sequence sequence;
    RecordPtr record;       // null: cancelled (acknowledged before it was written), skip it
    uint32_t attempts = 0;  // as Attempts below says it
  };
  // Where a queue stands once the batch is applied: every message below `watermark` is consumed,
  // and so are `purged`, ranges above it. The last one of a queue counts. `below`, `count` and
  // `bytes` are a sum that spares recovery the counting: of the messages that are there, so many
  // have a sequence under `below`. Recovery counts the rest, so `below` may lag behind what is
  // appended; but a batch that consumes something under the last `below` must say it anew.
  struct Advance {
    QueueId queue;
    Sequence watermark;
    Sequence below = 0;
    uint64_t count = 0;
    uint64_t bytes = 0;  // of bodies
    std::vector<SequenceRange> purged;
  };
  // One message at or above the watermark is consumed.
  struct Remove {
    QueueId queue;
    Sequence sequence;
    uint64_t group = 0;  // the record's
  };
  // How often a message was handed out and came back; goes with the message.
  struct Attempts {
    QueueId queue;
    Sequence sequence;
    uint32_t count;
  };
  // A message that is not in its queue before it is due.
  struct Schedule {
    QueueId queue;
    ScheduleKey key;
    RecordPtr record;  // null: cancelled, skip it
  };
  // It was moved to its queue, or is done with. At most once for each key, and only for keys that
  // were scheduled.
  struct Unschedule {
    QueueId queue;
    ScheduleKey key;
  };
  // Comes with each batch that schedules or unschedules. The last one of a queue counts.
  struct ScheduleAdvance {
    QueueId queue;
    SchedulePosition position;
  };
  // A deduplication id that the queue met.
  struct Remember {
    QueueId queue;
    DedupHash id;
    DedupEntry entry;
  };
  // Comes with each batch that remembers. The last one of a queue counts.
  struct DedupAdvance {
    QueueId queue;
    DedupPosition position;
  };
  struct Definition {
    CatalogKind kind;
    std::string key;
    std::optional<std::string> value;  // nullopt erases
  };
  // A part of an external body. All of them come before the first message that refers to the body,
  // or in its batch; those of a body that nobody holds any more are not written.
  struct Chunk {
    BodyId body;
    uint32_t index;
    uint32_t count;     // of the body
    std::string bytes;  // taken by the committer
  };
  struct Blob {
    std::string key;
    std::optional<std::string> bytes;  // nullopt erases
  };

  // Who hands it over: batches of one source are written in their order, also where one of them
  // has to wait for its ties. 0: waits for nobody.
  uint64_t source = 0;
  std::vector<std::shared_ptr<Tie>> ties;

  std::vector<Definition> definitions;
  std::vector<Blob> blobs;
  std::vector<QueueId> dropped_queues;  // all that is stored under them, in constant time
  std::vector<Chunk> chunks;
  std::vector<Append> appends;
  std::vector<Attempts> attempts;
  std::vector<Advance> advances;
  std::vector<Remove> removes;
  std::vector<Schedule> schedules;
  std::vector<Unschedule> unschedules;
  std::vector<ScheduleAdvance> schedule_advances;
  std::vector<QueueId> expiring_queues;  // from now on some messages of theirs may expire
  std::vector<Remember> remembers;
  std::vector<DedupAdvance> dedup_advances;

  // True where nothing needs writing (cancelled appends do not count) and nobody waits for it.
  bool empty() const;
  void clear();
};

struct StoredMessage {
  Sequence sequence;
  uint32_t attempts;  // 0 where none was recorded
  RecordPtr record;
};

struct ScheduledMessage {
  ScheduleKey key;
  RecordPtr record;
};

// What is known of a queue's messages at start.
struct QueuePosition {
  Sequence watermark = 1;             // lowest sequence that may still be there
  Sequence next = 1;                  // the first sequence that was never stored
  uint64_t count = 0;                 // messages that are there
  uint64_t bytes = 0;                 // of their bodies
  std::vector<SequenceRange> purged;  // above the watermark: consumed as well
  // Messages below this one may have been delivered before. Exact after close(), otherwise `next`.
  Sequence delivered = 1;
};

// Where queues live. One implementation is the embedded engine (storage/rocksdb); a replicated log
// can stand behind the same interface. From any thread.
class Store {
 public:
  // Called on the committer's thread, exactly once for each commit(), for those of one source in
  // order. The batch comes back so that its owner frees it. An Error is final: from then on nothing
  // is written any more and every later commit fails with it, because what reached the disk is
  // unknown. The owner must confirm nothing and stop the process; a restart recovers.
  using Committed = std::function<void(std::unique_ptr<Batch>, Expected<>)>;

  virtual ~Store() = default;  // waits for the commits that were handed over

  // Hands a batch to the committer thread and returns at once. Several batches that are waiting
  // share one write and one sync; ties apart, they are written in the order of the calls. A batch
  // with nothing to write is called back without a sync, in its turn.
  virtual void commit(std::unique_ptr<Batch> batch, Committed done) = 0;

  // All definitions of a kind, in the order of their keys.
  virtual Expected<std::vector<CatalogEntry>> catalog(CatalogKind kind) = 0;

  // kNotFound where there is none.
  virtual Expected<std::string> blob(std::string_view key) = 0;

  // For recovery, before the first commit that names the queue.
  virtual Expected<QueuePosition> position(QueueId queue) = 0;

  // All queues under which anything is stored, by ascending id: a spilled transient queue is in no
  // catalog.
  virtual Expected<std::vector<QueueId>> queues() = 0;

  // The messages of `queue` in `range`, in order, at most `count_max` of them and no more once
  // `bytes_max` is passed (at least one where there is one). Purged ones are not left out.
  virtual Expected<std::vector<StoredMessage>> read(QueueId queue, SequenceRange range,
                                                    size_t count_max, size_t bytes_max) = 0;

  // The first `count_max` sequences in `range` under which messages of a group are stored. Purged
  // ones are not left out.
  virtual Expected<std::vector<Sequence>> group(QueueId queue, uint64_t group, SequenceRange range,
                                                size_t count_max) = 0;

  // For recovery.
  virtual Expected<SchedulePosition> schedule(QueueId queue) = 0;
  virtual Expected<bool> expiring(QueueId queue) = 0;
  virtual Expected<DedupPosition> dedup(QueueId queue) = 0;

  // The delayed messages of `queue` from `from` on, in order, at most `count_max` of them and no
  // more once `bytes_max` is passed (at least one where there is one).
  virtual Expected<std::vector<ScheduledMessage>> read_schedule(QueueId queue, ScheduleKey from,
                                                                size_t count_max,
                                                                size_t bytes_max) = 0;

  // When the queue met the id last; nothing where it did not or it is long ago. May also find what
  // is below the watermark.
  virtual Expected<std::optional<DedupEntry>> find_id(QueueId queue, const DedupHash& id) = 0;

  // Asks for the disk space of what was consumed, rather sooner than cheaply; returns at once. From
  // any thread.
  virtual void reclaim() = 0;

  // Holds a number for a body of `bytes`; its chunks are to be committed. From any thread.
  virtual BodyPtr new_body(uint64_t bytes) = 0;

  // A chunk of an external body that is held. kNotFound before it is committed.
  virtual Expected<std::string> read_chunk(BodyId body, uint32_t index) = 0;

  struct Delivered {
    QueueId queue;
    Sequence below;  // see QueuePosition::delivered
  };
  // Last call of a clean stop: waits for all commits, then records what was delivered so that the
  // next start need not call every message redelivered. Nothing may be committed after it.
  virtual Expected<> close(const std::vector<Delivered>& delivered) = 0;
};

}  // namespace sluice::storage
