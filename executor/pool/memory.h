#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sluice::executor {

// What one function holds of the memory budget.
struct MemoryUse {
  const std::string* owner;  // whose it is: outlives the use
  uint64_t bytes = 0;        // its sandboxes and its snapshot
  bool idle = false;         // it has a sandbox without a call, unused since:
  int64_t idle_since_ns = 0;
};

// How far above their fair shares somebody is: the owner, and the function among the owner's. The
// owner's comes first.
using Excess = std::pair<double, double>;

// Of each of `uses`. Owners have equal shares of the budget, and the functions of an owner equal
// shares of that; only who is in `uses` counts.
std::vector<Excess> excesses(std::span<const MemoryUse> uses, uint64_t budget_bytes);

// Which function's idle sandbox goes when memory is short: one of the function that is most above
// its fair share; between equals, who has not used it for longest. With `above_share` only
// functions above their share give, of owners above theirs.
//
// `grower`, an index, wants `more` bytes for one more sandbox: only who is above his share by more
// than it would be then gives something to it. Without it everyone may have to.
std::optional<size_t> choose_victim(std::span<const MemoryUse> uses, uint64_t budget_bytes,
                                    bool above_share = false, std::optional<size_t> grower = {},
                                    uint64_t more = 0);

// Half of the machine's memory, or of what its control group may use if that is less.
uint64_t default_memory_budget();

}  // namespace sluice::executor
