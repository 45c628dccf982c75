#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <sys/types.h>

#include "base/error.h"
#include "tools/cli/rootfs_tree.h"

// Where the entries of a root file system come from. Blocking, on the caller's thread.
namespace sluice::cli {

// What was seen and not taken over, for a sentence to the user.
struct LeftOut {
  uint64_t devices = 0;
  uint64_t sockets = 0;
  uint64_t fifos = 0;
  uint64_t set_ids = 0;  // files that were taken, without the bit

  std::string sentence() const;  // "" where there is nothing to say
};

// Called for each entry with how many there were; for a progress line.
using EntrySeen = std::function<void(uint64_t entries)>;

// True for an entry that is to be taken.
using PathFilter = std::function<bool(std::string_view path)>;

// The directory or the archive at `path` into `tree`, over what is there.
Expected<LeftOut> read_rootfs(RootfsTree& tree, const std::string& path, const EntrySeen& seen);

// A directory of this machine, whole, but not what is mounted in it.
Expected<LeftOut> read_directory(RootfsTree& tree, const std::string& path, const EntrySeen& seen);

// A tar in memory, plain or compressed (gzip, zstd, xz, bzip2). `name` is for messages.
Expected<LeftOut> read_tar(RootfsTree& tree, std::string_view tar, std::string_view name,
                           const PathFilter& filter, const EntrySeen& seen);

// Where files with several names were first added, so that they stay one.
using FirstNames = std::map<std::pair<dev_t, ino_t>, std::string>;

// One file, directory or link of this machine as `destination`, without what is in a directory.
// Missing: kNotFound. Devices and their like are counted in `left_out` and not taken. True for a
// directory.
Expected<bool> read_one(RootfsTree& tree, const std::string& path, const std::string& destination,
                        FirstNames& first_names, LeftOut& left_out);

}  // namespace sluice::cli
