#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tools/cli/rootfs_read.h"
#include "tools/cli/rootfs_tree.h"

// A root file system out of Debian's packages, made on a Debian machine without root: what is
// installed is copied from the system, what is not is fetched with apt-get and unpacked in memory.
// Nothing is installed, and no script of a package is run. Blocking, on the caller's thread.
namespace sluice::cli {

// What to take: the packages asked for and all that they depend on.
struct PackageSet {
  std::vector<std::string> wanted;
  std::map<std::string, std::string> installed;  // name -> name for dpkg-query (libc6:amd64)
  std::vector<std::string> fetched;              // those that have to be fetched
  std::map<std::string, std::string> left_out;   // needless ones -> why

  bool contains(const std::string& name) const;
};

// Which programs a package brings: paths in the tree.
using Programs = std::map<std::string, std::vector<std::string>>;

struct PackageContent {
  Programs programs;
  std::vector<std::string> warnings;
};

// Said on the way, for a progress line.
using Note = std::function<void(const std::string&)>;

// Follows Depends and Pre-Depends, not Recommends. Of alternatives, what is installed comes first,
// then what is named first. kNotFound for a name that no package has; kUnavailable where this
// machine has no dpkg and apt, or is not amd64.
Expected<PackageSet> resolve_packages(const std::vector<std::string>& wanted, const Note& note);

// Their files into `tree`, in a merged-/usr layout, with the alternatives that their scripts would
// have made, and /etc/passwd, /tmp and the like that programs expect.
Expected<PackageContent> add_packages(RootfsTree& tree, const PackageSet& packages,
                                      const Note& note);

// The program that the first package with an obvious one is for: the one of its name, or its only
// one. kInvalid where there is none; the message names the candidates.
Expected<std::string> obvious_program(const RootfsTree& tree,
                                      const std::vector<std::string>& wanted,
                                      const Programs& programs);

}  // namespace sluice::cli
