#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/watermarks.h"

namespace sluice::storage {

// The thread that gives disk space back when it is asked to, rather than when RocksDB finds it
// worth while: flushes what is in memory, which ends logs; deletes the files in which all is
// consumed; compacts those in which some is. Costs nothing until then. Its failures are harmless,
// as RocksDB remembers those that are not.
//
// The engine and the watermarks are borrowed; request() may be called from any thread.
class Reclaimer {
 public:
  Reclaimer(Engine& engine, const Watermarks& watermarks);
  Reclaimer(const Reclaimer&) = delete;
  Reclaimer& operator=(const Reclaimer&) = delete;
  ~Reclaimer();

  // Returns at once; while the thread is at work further requests are one.
  void request();

 private:
  void run();
  void reclaim();
  bool stopping();

  Engine& engine_;
  const Watermarks& watermarks_;
  std::unordered_map<QueueId, Sequence> reclaimed_;  // how far each queue was done

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  bool requested_ = false;
  bool stopping_ = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace sluice::storage
