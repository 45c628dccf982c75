#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice::executor {

// What a function's sandboxes have done since it was loaded; schemas/executor.fbs tells each field.
// Calls are counted when they end, with all that belongs to them: calls = resets + discarded +
// those that ended without a sandbox.
struct FunctionStats {
  uint64_t function = 0;
  uint32_t sandboxes = 0;
  uint32_t running = 0;
  uint32_t queued = 0;
  uint32_t target = 0;
  uint64_t calls = 0;
  uint64_t warm_hits = 0;
  uint64_t cold_starts = 0;
  uint64_t clones = 0;
  uint64_t clone_us = 0;
  uint64_t resets = 0;
  uint64_t discarded = 0;
  uint64_t dirty_pages = 0;
  uint64_t exits = 0;
  uint64_t run_us = 0;
  uint64_t memory_bytes = 0;
};

struct PoolStats {
  std::vector<FunctionStats> functions;
  uint64_t memory_bytes = 0;
  uint64_t memory_budget_bytes = 0;
};

}  // namespace sluice::executor
