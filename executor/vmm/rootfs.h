#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "executor/vmm/tmpfs.h"

namespace sluice::vmm {

// A function's root file system: a tree that nobody changes any more, below the program's private
// file system (Tmpfs). Its nodes' numbers have Tmpfs::kBaseBit set. Threads share it.
class RootFs {
 public:
  // From a tar archive, which is not needed afterwards. What would lie outside the root is refused,
  // and so is what has more than kRootFsNodesMax nodes; permissions are those of the archive,
  // owners are forgotten. Errors: kInvalid.
  static Expected<std::shared_ptr<const RootFs>> from_tar(std::span<const uint8_t> archive);

  // Number 0 is its root.
  const Tmpfs::Node& node(Tmpfs::Ino ino) const { return nodes_[ino & ~Tmpfs::kBaseBit]; }
  const Tmpfs::Node& root() const { return nodes_[0]; }
  uint64_t bytes() const { return bytes_; }

 private:
  friend class RootFsBuilder;
  std::vector<Tmpfs::Node> nodes_;
  uint64_t bytes_ = 0;
};

}  // namespace sluice::vmm
