#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>

#include <rocksdb/write_batch.h>

#include "storage/body.h"
#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/watermarks.h"
#include "storage/store.h"

namespace sluice::storage {

// What a write of the committer does about external bodies (storage/FORMAT.md, "External bodies"):
// it stores chunks, notes which message refers to which body, counts, and deletes the bodies that
// no message refers to and nobody holds. A queue's watermark passes messages without naming them;
// their references are looked up behind it, a bounded number in each write.
//
// Each body is counted or marked as unreferenced, in the same write that makes it so: after a crash
// the marked ones go, and nothing else is looked at.
//
// The committer's thread owns it once load() is through. For each write begin(), then the changes
// in their order, then finish(). A write that fails is final, so nothing is taken back.
class BodyTable {
 public:
  BodyTable(Engine& engine, const Watermarks& watermarks, std::shared_ptr<HeldBodies> held);

  // What the last process left undone is this one's to do. After the watermarks are loaded.
  Expected<> load();
  // The first number that nothing is stored under.
  Expected<BodyId> next_id() const;
  // Whether a message of the queue refers to a body, or may.
  bool has_refs(QueueId queue) const;

  void begin(rocksdb::WriteBatch& write);
  rocksdb::Status put_chunk(const Batch::Chunk& chunk);
  // The message is stored.
  rocksdb::Status append(QueueId queue, Sequence sequence, const Record& record);
  // The message, which is not behind the watermark, is consumed.
  rocksdb::Status remove(QueueId queue, Sequence sequence);
  // All below is consumed.
  rocksdb::Status advance(QueueId queue, Sequence watermark);
  rocksdb::Status finish();

  // True where a write is due for what is left to delete.
  bool has_work() const { return !unswept_.empty() || !dead_.empty(); }
  HeldBodies& held() { return *held_; }

 private:
  // Where a queue's references lie: at least none is outside of [first, last].
  struct Refs {
    Sequence first = ~Sequence{0};
    Sequence last = 0;
  };
  // A body in this write.
  struct Touched {
    uint32_t refs = 0;
    uint32_t chunks = 0;
    bool counted = false;  // on disk
  };
  struct Sweep {
    Sequence watermark = 1;
    bool on_disk = false;
  };

  rocksdb::Status each(
      BodyKey kind,
      const std::function<rocksdb::Status(rocksdb::Slice key, rocksdb::Slice value)>&);
  rocksdb::Status find_refs(QueueId queue, Refs*& refs);
  rocksdb::Status touch(BodyId body, Touched*& touched);
  rocksdb::Status drop_ref(QueueId queue, Sequence sequence, BodyId body);
  rocksdb::Status sweep(QueueId queue, Sweep& sweep, size_t& budget, bool& done);
  rocksdb::Status settle(BodyId body, const Touched& touched);
  rocksdb::Status drop_dead();

  Engine& engine_;
  const Watermarks& watermarks_;
  const std::shared_ptr<HeldBodies> held_;

  // Queues that were met since the start; most have none.
  std::unordered_map<QueueId, Refs> refs_;
  // Bodies that are stored and that no message refers to, with their number of chunks; on disk too.
  std::unordered_map<BodyId, uint32_t> unreferenced_;
  std::deque<BodyId> dead_;  // of these, those that nobody held when it was looked
  std::map<QueueId, Sweep> unswept_;

  // Of the write that is being built.
  rocksdb::WriteBatch* write_ = nullptr;
  std::unordered_map<BodyId, Touched> touched_;
  std::map<std::pair<QueueId, Sequence>, BodyId> new_refs_;
};

}  // namespace sluice::storage
