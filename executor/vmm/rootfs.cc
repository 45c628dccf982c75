#include "executor/vmm/rootfs.h"

#include <fmt/format.h>

#include "executor/vmm/limits.h"
#include "executor/vmm/tar.h"

namespace sluice::vmm {

using Ino = Tmpfs::Ino;
using Kind = Tmpfs::Kind;

// Puts an archive's entries into the tree. Directories that an archive leaves out are made; a later
// entry takes an earlier one's place, as tar does it, but a directory stays.
class RootFsBuilder {
 public:
  RootFsBuilder() : fs_(std::make_shared<RootFs>()) {
    fs_->nodes_.emplace_back();
    fs_->nodes_[0].kind = Kind::kDirectory;
    fs_->nodes_[0].mode = 0755;
    fs_->nodes_[0].links = 1;
    fs_->nodes_[0].parent = Tmpfs::kRoot;
  }

  Expected<void> add(const TarEntry& entry) {
    auto place = find_place(entry.path, true);
    if (!place) return std::unexpected(place.error());
    if (place->name.empty()) return {};  // the root itself
    if (entry.kind == TarEntry::Kind::kHardLink) return add_hard_link(entry, *place);
    Kind kind = entry.kind == TarEntry::Kind::kDirectory      ? Kind::kDirectory
                : entry.kind == TarEntry::Kind::kSymbolicLink ? Kind::kSymbolicLink
                                                              : Kind::kFile;
    auto ino = make(*place, kind, entry.path);
    if (!ino) return std::unexpected(ino.error());
    Tmpfs::Node& node = at(*ino);
    node.mode = kind == Kind::kSymbolicLink ? 0777 : entry.mode;
    if (kind == Kind::kSymbolicLink) {
      if (entry.link.empty() || entry.link.size() >= kPathBytesMax) {
        return refuse(entry.path, "a link that leads nowhere");
      }
      node.target = entry.link;
    } else if (kind == Kind::kFile) {
      node.data = std::make_shared<std::vector<uint8_t>>(entry.data.begin(), entry.data.end());
      fs_->bytes_ += entry.data.size();
    }
    return {};
  }

  std::shared_ptr<const RootFs> take() { return std::move(fs_); }

 private:
  struct Place {
    Ino parent = 0;
    std::string name;  // empty: the root
  };

  Tmpfs::Node& at(Ino ino) { return fs_->nodes_[ino & ~Tmpfs::kBaseBit]; }

  static std::unexpected<Error> refuse(std::string_view path, const char* why) {
    return fail(Code::kInvalid,
                fmt::format("the root file system's entry '{}' is {}", path.substr(0, 200), why));
  }

  // Where a path of the archive leads. Links in it are not followed: an entry below a link would
  // lie somewhere else than it says.
  Expected<Place> find_place(std::string_view path, bool make_parents) {
    Place place;
    Ino here = 0;
    for (size_t from = 0; from < path.size();) {
      size_t end = std::min(path.find('/', from), path.size());
      std::string_view part = path.substr(from, end - from);
      from = end + 1;
      if (part.empty() || part == ".") continue;
      if (part == "..") return refuse(path, "outside the root");
      if (part.size() > kNameBytesMax || part.find('\0') != std::string_view::npos) {
        return refuse(path, "a name that is too long or malformed");
      }
      if (!place.name.empty()) {
        auto entered = enter(place, make_parents, path);
        if (!entered) return std::unexpected(entered.error());
        here = *entered;
      }
      place = {here, std::string(part)};
    }
    return place;
  }

  Expected<Ino> enter(const Place& place, bool make_parents, std::string_view path) {
    auto& entries = at(place.parent).entries;
    auto found = entries.find(place.name);
    if (found == entries.end()) {
      if (!make_parents) return refuse(path, "a link to what is not there");
      return make(place, Kind::kDirectory, path);
    }
    if (at(found->second).kind != Kind::kDirectory) {
      return refuse(path, "below something that is not a directory");
    }
    return found->second;
  }

  Expected<Ino> make(const Place& place, Kind kind, std::string_view path) {
    auto& entries = at(place.parent).entries;
    auto found = entries.find(place.name);
    if (found != entries.end()) {
      Kind before = at(found->second).kind;
      if (before == Kind::kDirectory && kind == Kind::kDirectory) return found->second;
      if (before == Kind::kDirectory) return refuse(path, "in a directory's place");
    }
    if (fs_->nodes_.size() >= kRootFsNodesMax) {
      return fail(Code::kInvalid, fmt::format("the root file system has more than {} files and "
                                              "directories",
                                              kRootFsNodesMax));
    }
    Ino ino = static_cast<Ino>(fs_->nodes_.size()) | Tmpfs::kBaseBit;
    entries[place.name] = ino;
    Tmpfs::Node& node = fs_->nodes_.emplace_back();
    node.kind = kind;
    node.mode = kind == Kind::kDirectory ? 0755 : 0644;
    node.links = 1;
    node.parent = place.parent == 0 ? Tmpfs::kRoot : place.parent;
    return ino;
  }

  Expected<void> add_hard_link(const TarEntry& entry, const Place& place) {
    auto target = find_place(entry.link, false);
    if (!target) return std::unexpected(target.error());
    auto& entries = at(target->parent).entries;
    auto found = entries.find(target->name);
    if (found == entries.end() || at(found->second).kind == Kind::kDirectory) {
      return refuse(entry.path, "a link to what is not a file");
    }
    Ino ino = found->second;
    auto& there = at(place.parent).entries;
    auto before = there.find(place.name);
    if (before != there.end() && at(before->second).kind == Kind::kDirectory) {
      return refuse(entry.path, "in a directory's place");
    }
    there[place.name] = ino;
    at(ino).links++;
    return {};
  }

  std::shared_ptr<RootFs> fs_;
};

Expected<std::shared_ptr<const RootFs>> RootFs::from_tar(std::span<const uint8_t> archive) {
  RootFsBuilder builder;
  auto read = read_tar(archive, [&](const TarEntry& entry) { return builder.add(entry); });
  if (!read) return std::unexpected(read.error());
  return builder.take();
}

}  // namespace sluice::vmm
