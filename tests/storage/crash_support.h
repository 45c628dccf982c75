#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include <fmt/format.h>

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

// In how many queues, and where, two models differ; a queue that holds nothing is as good as none.
struct Difference {
  size_t queues = 0;
  std::string text;
};

inline Difference difference(const Model& wanted, const Model& found) {
  Difference difference;
  if (wanted.catalog != found.catalog) ++difference.queues, difference.text += " catalog;";
  std::set<QueueId> ids;
  for (const auto& [id, queue] : wanted.queues) ids.insert(id);
  for (const auto& [id, queue] : found.queues) ids.insert(id);
  auto of = [](const Model& model, QueueId id) {
    auto queue = model.queues.find(id);
    return queue == model.queues.end() ? Model::Queue() : queue->second;
  };
  auto first_of = [](const auto& one, const auto& other) {
    for (const auto& entry : one) {
      if (!other.contains(entry.first)) return std::to_string(entry.first);
    }
    return std::string("none");
  };
  for (QueueId id : ids) {
    Model::Queue one = of(wanted, id), other = of(found, id);
    if (one == other) continue;
    ++difference.queues;
    difference.text += fmt::format(
        " queue {}: watermark {} not {}, {} messages not {} (first missing {}, first unexpected "
        "{}),"
        " {} delayed not {}, {} ids not {};",
        id, other.watermark, one.watermark, other.attempts.size(), one.attempts.size(),
        first_of(one.attempts, other.attempts), first_of(other.attempts, one.attempts),
        other.scheduled.size(), one.scheduled.size(), other.ids.size(), one.ids.size());
  }
  return difference;
}

struct Survival {
  // Of the workload's batches the store holds exactly the first that many, at least what was
  // confirmed and at most what was submitted. Nothing where there is no such number: something was
  // lost, or came back, or was never there.
  std::optional<uint64_t> count;
  std::string nearest;  // the state that comes nearest, then
};

inline Survival surviving(Store& store, uint64_t seed, const Progress& progress) {
  Workload workload(seed);
  for (uint64_t i = 0; i < progress.confirmed; ++i) workload.next();
  QueueId queue_end = 1;  // behind all queues of all states that may be met
  Workload all = workload;
  for (uint64_t n = progress.confirmed;; ++n, all.next()) {
    const auto& queues = all.model().queues;
    if (!queues.empty()) queue_end = std::max(queue_end, queues.rbegin()->first + 1);
    if (n >= progress.submitted) break;
  }
  Model found = contents_of(store, queue_end);
  Survival survival;
  size_t fewest = SIZE_MAX;
  for (uint64_t n = progress.confirmed;; ++n, workload.next()) {
    Difference at = difference(workload.model(), found);
    if (at.queues == 0) return {n, {}};
    if (at.queues < fewest) {
      fewest = at.queues;
      survival.nearest = fmt::format("after batch {}:{}", n, at.text);
    }
    if (n == progress.submitted) break;
  }
  return survival;
}

// The same; fails the test where there is no such number.
inline uint64_t recovered(Store& store, uint64_t seed, const Progress& progress) {
  Survival survival = surviving(store, seed, progress);
  if (survival.count) return *survival.count;
  ADD_FAILURE() << "what was recovered is no state between batch " << progress.confirmed
                << " (confirmed) and " << progress.submitted << " (submitted), seed " << seed
                << "; the nearest is that " << survival.nearest;
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
