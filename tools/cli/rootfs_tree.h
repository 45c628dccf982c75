#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace sluice::cli {

// A function's root file system while it is put together, in memory: directories, files, symbolic
// and hard links with their permissions; no owners, times, devices or set-ids. What is added later
// takes the place of what was there. Not thread safe.
//
// Paths are relative to the root ("usr/bin/jq"); a leading '/' and "." are passed over, as tar
// does. A path whose parent is a symbolic link goes where that leads, inside the root: with "lib" a
// link to "usr/lib", "lib/x" is "usr/lib/x". A path that would leave the root is refused
// (kInvalid), and so is what grows over kRootfsBytesMax or kRootfsEntriesMax (kLimit).
class RootfsTree {
 public:
  enum class Kind { kDirectory, kFile, kSymlink };
  struct Node {
    Kind kind = Kind::kDirectory;
    uint32_t mode = 0755;  // the permission bits, and 01000
    std::string content;   // of a file; where a symbolic link leads
  };

  // Missing parents are made (0755). A directory that is there stays and takes the mode; where a
  // symbolic link leads to a directory, the link stays.
  Expected<> add_directory(std::string_view path, uint32_t mode);
  Expected<> add_file(std::string_view path, uint32_t mode, std::string content);
  Expected<> add_symlink(std::string_view path, std::string target);
  // A second name for a file (or a symbolic link) that is there already.
  Expected<> add_hardlink(std::string_view path, std::string_view existing);

  // What `path` is, symbolic links followed, also its last part's; nullptr where there is nothing.
  const Node* find(std::string_view path) const;
  // The same with the path that it was found at, without links; "" for none and for the root.
  std::string real_path(std::string_view path) const;

  size_t entries() const { return nodes_.size(); }
  uint64_t bytes() const { return bytes_; }

  // A plain tar: entries by name, owner 0, time 0, so that one tree has one archive. Names that do
  // not fit a ustar header get a pax header ("path", "linkpath"), nothing else does.
  std::string to_tar() const;

 private:
  // The path without links in its parents, and if `follow` in its last part; missing parts are kept
  // as they are. kInvalid where it leaves the root or goes through a file.
  Expected<std::string> resolve(std::string_view path, bool follow) const;
  // A new path for a node: resolved, within the limits, its parents made and what was there gone.
  Expected<std::string> place(std::string_view path, uint64_t bytes);
  Expected<> make_parents(const std::string& path);
  void remove(const std::string& path);

  std::map<std::string, std::shared_ptr<Node>> nodes_;  // without the root itself
  uint64_t bytes_ = 0;
};

}  // namespace sluice::cli
