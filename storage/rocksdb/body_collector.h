#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "storage/rocksdb/engine.h"

namespace sluice::storage {

// Gives back the disk space of deleted chunks that share their blob files with others: a file goes
// when all in it is deleted, and a body that stays for long would keep those of its time. Where
// more than half of all blob files is deleted, what is not is copied into new ones; so each byte
// given back costs at most one copied. RocksDB's own collection goes by a file's age and would copy
// the oldest part of a backlog with every compaction.
//
// compacted() may be called from any thread, from the opening of the engine to its end; start() and
// stop() by the engine's owner.
class BodyCollector {
 public:
  explicit BodyCollector(Engine& engine) : engine_(engine) {}
  ~BodyCollector() { stop(); }

  void start();
  // Ends a collection under way. Before the engine closes.
  void stop();
  // A compaction has counted deleted chunks.
  void compacted();

 private:
  void run();
  bool worth_it() const;
  void collect();

  Engine& engine_;
  std::mutex mutex_;  // guards due_, and stopping_ where it is waited for
  std::condition_variable wake_;
  bool due_ = false;
  std::atomic<bool> stopping_ = false;  // RocksDB looks at it
  // What the last collection left: it was not to be had then.
  uint64_t left_bytes_ = 0;
  std::thread thread_;
};

}  // namespace sluice::storage
