#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "tests/storage/bodies_support.h"
#include "tests/storage/support.h"
#include "tests/storage/workload.h"

namespace sluice::storage {

// SLUICE_SEED repeats a run, SLUICE_ROUNDS makes it longer.
inline uint64_t number_from_environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 0);
}

struct Progress {
  uint64_t submitted = 0;  // batches that were handed over, from the workload's beginning
  uint64_t confirmed = 0;  // of these, in order
};

// Commits a workload from its batch `done` on, at most `in_flight` at a time, until a commit fails
// or `count` batches are through. `on_confirmed` is called on the committer's thread.
inline Progress drive(
    Store& store, uint64_t seed, uint64_t done, uint64_t count, uint64_t in_flight,
    const std::function<void(uint64_t)>& on_confirmed = [](uint64_t) {}) {
  Workload workload(seed, &store);
  for (uint64_t i = 0; i < done; ++i) workload.next();
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t open = 0;
  bool failed = false;
  Progress progress{done, done};
  while (progress.submitted < done + count) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return open < in_flight; });
      if (failed) break;
      ++open;
    }
    ++progress.submitted;
    store.commit(std::make_unique<Batch>(workload.next()),
                 [&](std::unique_ptr<Batch>, Expected<> outcome) {
                   std::lock_guard lock(mutex);
                   --open;
                   if (outcome) {
                     EXPECT_FALSE(failed) << "confirmed after a failure";
                     on_confirmed(++progress.confirmed);
                   }
                   failed = failed || !outcome;
                   changed.notify_one();
                 });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return open == 0; });
  return progress;
}

// Whether two models differ at most in queues that hold nothing.
inline bool same_but_for_empty_queues(const Model& wanted, const Model& found) {
  if (wanted.catalog != found.catalog) return false;
  size_t count = 0;
  for (const auto& [id, queue] : wanted.queues) {
    if (queue == Model::Queue()) continue;
    auto other = found.queues.find(id);
    if (other == found.queues.end() || other->second != queue) return false;
    ++count;
  }
  return count == found.queues.size();
}

// How many of the workload's batches the store holds: exactly the first n of them, n at least what
// was confirmed and at most what was submitted. Nothing where there is no such n: something was
// lost, or came back, or was never there.
inline std::optional<uint64_t> surviving(Store& store, uint64_t seed, const Progress& progress) {
  Workload workload(seed);
  for (uint64_t i = 0; i < progress.confirmed; ++i) workload.next();
  QueueId queue_end = 1;
  {
    Workload all(seed);
    for (uint64_t i = 0; i < progress.submitted; ++i) all.next();
    if (!all.model().queues.empty()) queue_end = all.model().queues.rbegin()->first + 1;
  }
  if (!workload.model().queues.empty()) {
    queue_end = std::max(queue_end, workload.model().queues.rbegin()->first + 1);
  }
  Model found = contents_of(store, queue_end);
  for (uint64_t n = progress.confirmed;; ++n, workload.next()) {
    if (same_but_for_empty_queues(workload.model(), found)) return n;
    if (n == progress.submitted) break;
  }
  return std::nullopt;
}

// The same; fails the test where there is no such n.
inline uint64_t recovered(Store& store, uint64_t seed, const Progress& progress) {
  if (auto count = surviving(store, seed, progress)) return *count;
  ADD_FAILURE() << "what was recovered is no state between batch " << progress.confirmed
                << " (confirmed) and " << progress.submitted << " (submitted), seed " << seed;
  return progress.confirmed;
}

// Closes the store. Each body that has chunks on disk must be that of a message below `queue_end`.
inline void expect_no_orphans(std::unique_ptr<Store> store, const std::string& directory,
                              QueueId queue_end) {
  commit_or_fail(*store, {});  // with it goes what the last process left to delete
  std::set<BodyId> wanted;
  for (QueueId queue = 1; queue < queue_end; ++queue) {
    for (const auto& message : all_of(*store, queue)) {
      if (message.record->external()) wanted.insert(message.record->external()->id());
    }
    auto delayed = store->read_schedule(queue, {}, SIZE_MAX, SIZE_MAX);
    ASSERT_TRUE(delayed);
    for (const auto& message : *delayed) {
      if (message.record->external()) wanted.insert(message.record->external()->id());
    }
  }
  store.reset();
  EXPECT_EQ(stored_bodies(directory), wanted);
}

}  // namespace sluice::storage
