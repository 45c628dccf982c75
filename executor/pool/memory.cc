#include "executor/pool/memory.h"

#include <fstream>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include <unistd.h>

namespace sluice::executor {
namespace {

struct Owner {
  double bytes = 0;
  double functions = 0;
};

}  // namespace

std::optional<size_t> choose_victim(std::span<const MemoryUse> uses, uint64_t budget_bytes,
                                    std::optional<size_t> grower, uint64_t more) {
  std::unordered_map<std::string_view, Owner> owners;
  for (const MemoryUse& use : uses) {
    Owner& owner = owners[*use.owner];
    owner.bytes += static_cast<double>(use.bytes);
    owner.functions += 1;
  }
  if (owners.empty()) return std::nullopt;
  double owner_share = static_cast<double>(budget_bytes) / static_cast<double>(owners.size());
  // How far above their shares: the owner, and the function among the owner's.
  auto excess = [&](const MemoryUse& use, double more_bytes) {
    const Owner& owner = owners.at(*use.owner);
    return std::pair(owner.bytes + more_bytes - owner_share,
                     static_cast<double>(use.bytes) + more_bytes - owner_share / owner.functions);
  };
  std::optional<size_t> victim;
  std::tuple<double, double, int64_t> most;
  for (size_t i = 0; i < uses.size(); i++) {
    const MemoryUse& use = uses[i];
    if (!use.idle || i == grower) continue;
    auto [of_owner, of_function] = excess(use, 0);
    if (grower) {
      auto [grown_owner, grown_function] = excess(uses[*grower], static_cast<double>(more));
      bool same = *use.owner == *uses[*grower].owner;
      if (same ? of_function <= grown_function : of_owner <= grown_owner) continue;
    }
    std::tuple rank(of_owner, of_function, -use.idle_since_ns);
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
