#include "executor/pool/memory.h"

#include <algorithm>
#include <fstream>
#include <string_view>
#include <unordered_map>

#include <unistd.h>

namespace sluice::executor {
namespace {

struct Owner {
  double bytes = 0;
  double functions = 0;
};

}  // namespace

std::vector<Excess> excesses(std::span<const MemoryUse> uses, uint64_t budget_bytes) {
  std::unordered_map<std::string_view, Owner> owners;
  for (const MemoryUse& use : uses) {
    Owner& owner = owners[*use.owner];
    owner.bytes += static_cast<double>(use.bytes);
    owner.functions += 1;
  }
  std::vector<Excess> all;
  all.reserve(uses.size());
  double owner_share = static_cast<double>(budget_bytes) / static_cast<double>(owners.size());
  for (const MemoryUse& use : uses) {
    const Owner& owner = owners.at(*use.owner);
    all.emplace_back(owner.bytes - owner_share,
                     static_cast<double>(use.bytes) - owner_share / owner.functions);
  }
  return all;
}

std::optional<size_t> choose_victim(std::span<const MemoryUse> uses, uint64_t budget_bytes,
                                    bool above_share, std::optional<size_t> grower, uint64_t more) {
  auto more_bytes = static_cast<double>(more);
  std::vector<Excess> excess = excesses(uses, budget_bytes);
  std::optional<size_t> victim;
  std::pair<Excess, int64_t> most;
  for (size_t i = 0; i < uses.size(); i++) {
    if (!uses[i].idle || i == grower) continue;
    auto [owner, function] = excess[i];
    if (above_share && (owner <= 0 || function <= 0)) continue;
    if (grower) {
      auto [grown_owner, grown_function] = excess[*grower];
      bool same = *uses[i].owner == *uses[*grower].owner;
      if (same ? function <= grown_function + more_bytes : owner <= grown_owner + more_bytes) {
        continue;
      }
    }
    std::pair rank(excess[i], -uses[i].idle_since_ns);
    if (victim && rank <= most) continue;
    victim = i;
    most = rank;
  }
  return victim;
}

uint64_t default_memory_budget() {
  uint64_t bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t limit = 0;
  // Where it says "max" or is not there, nothing is read.
  if (std::ifstream file("/sys/fs/cgroup/memory.max"); file >> limit && limit > 0) {
    bytes = std::min(bytes, limit);
  }
  return bytes / 2;
}

}  // namespace sluice::executor
