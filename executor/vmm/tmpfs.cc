#include "executor/vmm/tmpfs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "executor/vmm/limits.h"
#include "executor/vmm/rootfs.h"

namespace sluice::vmm {

Tmpfs::Tmpfs(uint64_t bytes_max, std::shared_ptr<const RootFs> base)
    : base_(std::move(base)), nodes_(2), bytes_max_(bytes_max) {
  Node& root = nodes_[kRoot];
  root.kind = Kind::kDirectory;
  root.mode = 0755;
  root.links = 1;
  root.parent = kRoot;
  nodes_used_ = 1;
  add(kRoot, "tmp", Kind::kDirectory, 01777);
  Ino dev = add(kRoot, "dev", Kind::kDirectory, 0755);
  add(dev, "null", Kind::kNull, 0666);
  add(dev, "zero", Kind::kZero, 0666);
  add(dev, "random", Kind::kRandom, 0666);
  add(dev, "urandom", Kind::kRandom, 0666);
  add(dev, "stdin", Kind::kStdin, 0666);
  add(dev, "stdout", Kind::kStdout, 0666);
  add(dev, "stderr", Kind::kStderr, 0666);
}

Tmpfs::Ino Tmpfs::add(Ino parent, std::string_view name, Kind kind, uint32_t mode) {
  Ino ino = 0;
  for (Ino i = kRoot + 1; i < nodes_.size() && ino == 0; i++) {
    if (nodes_[i].kind == Kind::kUnused) ino = i;
  }
  if (ino == 0) {
    ino = static_cast<Ino>(nodes_.size());
    nodes_.emplace_back();
  }
  Node& node = nodes_[ino];
  node.kind = kind;
  node.mode = mode;
  node.links = 1;
  node.parent = parent;
  nodes_[parent].entries.emplace(name, ino);
  nodes_used_++;
  return ino;
}

const Tmpfs::Node& Tmpfs::node(Ino ino) const {
  return of_base(ino) ? base_->node(ino) : nodes_[ino];
}

Tmpfs::Ino Tmpfs::lookup(Ino directory, std::string_view name) const {
  const auto& entries = node(directory).entries;
  if (auto entry = entries.find(name); entry != entries.end()) return entry->second;
  if (directory != kRoot || !base_) return 0;
  const auto& below = base_->root().entries;
  auto entry = below.find(name);
  return entry == below.end() ? 0 : entry->second;
}

std::vector<std::pair<std::string, Tmpfs::Ino>> Tmpfs::list(Ino directory) const {
  const auto& entries = node(directory).entries;
  std::vector<std::pair<std::string, Ino>> all(entries.begin(), entries.end());
  if (directory == kRoot && base_) {
    for (const auto& entry : base_->root().entries) {
      if (!entries.contains(entry.first)) all.push_back(entry);
    }
    std::ranges::sort(all);
  }
  return all;
}

bool Tmpfs::writable_directory(Ino ino) const {
  return !of_base(ino) && !(ino == kRoot && base_ != nullptr);
}

int64_t Tmpfs::find(Ino from, std::string_view path, bool follow, Found& found) const {
  if (path.empty()) return -ENOENT;
  if (path.size() >= kPathBytesMax) return -ENAMETOOLONG;
  std::string rest(path);  // what is left to go; a link puts its target in front
  uint32_t links = 0;
  Ino at = rest.front() == '/' ? kRoot : from;
  found = {.parent = node(at).parent, .node = at, .name = "", .wants_directory = false};
  size_t position = 0;
  while (position < rest.size()) {
    size_t end = std::min(rest.find('/', position), rest.size());
    std::string_view part = std::string_view(rest).substr(position, end - position);
    position = end + 1;
    if (part.empty()) continue;
    if (part.size() > kNameBytesMax) return -ENAMETOOLONG;
    if (found.node == 0) return -ENOENT;  // a component before this one does not exist
    const Node& here = node(found.node);
    if (here.kind != Kind::kDirectory) return -ENOTDIR;
    if (part == ".") continue;
    if (part == "..") {
      found.node = here.parent;
      // A removed working directory may outlive the directory above it.
      if (here.links == 0 || node(found.node).kind != Kind::kDirectory) return -ENOENT;
      found.parent = node(found.node).parent;
      found.name.clear();
      continue;
    }
    found.parent = found.node;
    found.name = part;
    found.node = lookup(found.parent, part);
    if (found.node == 0 || node(found.node).kind != Kind::kSymbolicLink) continue;
    if (end == rest.size() && !follow) break;
    if (++links > kSymbolicLinksMax) return -ELOOP;
    const std::string& target = node(found.node).target;
    rest = end < rest.size() ? target + rest.substr(end) : target;
    if (rest.size() >= 2 * kPathBytesMax) return -ENAMETOOLONG;
    found.node = rest.front() == '/' ? kRoot : found.parent;
    found.parent = node(found.node).parent;
    found.name.clear();
    position = 0;
  }
  found.wants_directory = path.back() == '/';
  if (found.wants_directory && found.node != 0 && node(found.node).kind != Kind::kDirectory) {
    return -ENOTDIR;
  }
  return 0;
}

std::string Tmpfs::path_of(Ino directory) const {
  std::string path;
  for (Ino at = directory; at != kRoot;) {
    const Node& here = node(at);
    if (here.links == 0) return "";  // removed while it was someone's working directory
    auto siblings = list(here.parent);
    auto entry = std::find_if(siblings.begin(), siblings.end(),
                              [at](const auto& e) { return e.second == at; });
    CHECK(entry != siblings.end());
    path.insert(0, "/" + entry->first);
    at = here.parent;
  }
  return path.empty() ? "/" : path;
}

int64_t Tmpfs::create(Found& found, Kind kind, uint32_t mode, int64_t now_ns) {
  CHECK(found.node == 0 && !found.name.empty());
  if (found.wants_directory && kind != Kind::kDirectory) return -EISDIR;
  if (!writable_directory(found.parent)) return -EROFS;
  if (nodes_[found.parent].links == 0) return -ENOENT;  // in a removed directory
  if (nodes_used_ >= kTmpfsNodesMax) return -ENOSPC;
  found.node = add(found.parent, found.name, kind, mode);
  nodes_[found.node].modified_ns = now_ns;
  return 0;
}

int64_t Tmpfs::symlink(Found& found, std::string target, int64_t now_ns) {
  if (found.node != 0) return -EEXIST;
  if (target.empty()) return -ENOENT;
  if (target.size() > bytes_max_ - bytes_used_) return -ENOSPC;
  int64_t made = create(found, Kind::kSymbolicLink, 0777, now_ns);
  if (made < 0) return made;
  bytes_used_ += target.size();
  nodes_[found.node].target = std::move(target);
  return 0;
}

int64_t Tmpfs::set_mode(Ino ino, uint32_t mode) {
  if (of_base(ino)) return -EROFS;
  nodes_[ino].mode = mode;
  return 0;
}

int64_t Tmpfs::unlink(const Found& found) {
  if (found.node == 0) return -ENOENT;
  if (!writable_directory(found.parent)) return -EROFS;
  if (nodes_[found.node].kind == Kind::kDirectory) return -EISDIR;
  nodes_[found.parent].entries.erase(found.name);
  nodes_[found.node].links--;
  free_if_unused(found.node);
  return 0;
}

int64_t Tmpfs::rmdir(const Found& found) {
  if (found.node == 0) return -ENOENT;
  if (!writable_directory(found.parent) || of_base(found.node)) return -EROFS;
  Node& node = nodes_[found.node];
  if (node.kind != Kind::kDirectory) return -ENOTDIR;
  if (found.name.empty()) return -EBUSY;  // the root, or named by its dots
  if (!node.entries.empty()) return -ENOTEMPTY;
  nodes_[found.parent].entries.erase(found.name);
  node.links--;
  free_if_unused(found.node);
  return 0;
}

int64_t Tmpfs::rename(const Found& from, const Found& to) {
  if (from.node == 0) return -ENOENT;
  if (from.name.empty() || to.name.empty()) return -EBUSY;
  if (!writable_directory(from.parent) || !writable_directory(to.parent)) return -EROFS;
  if (from.node == to.node) return 0;
  if (nodes_[to.parent].links == 0) return -ENOENT;
  bool directory = nodes_[from.node].kind == Kind::kDirectory;
  if (directory) {
    for (Ino at = to.parent; at != kRoot; at = nodes_[at].parent) {
      if (at == from.node) return -EINVAL;  // into itself
    }
  }
  if (to.node != 0) {
    bool over_directory = nodes_[to.node].kind == Kind::kDirectory;
    if (directory && !over_directory) return -ENOTDIR;
    if (!directory && over_directory) return -EISDIR;
    int64_t removed = over_directory ? rmdir(to) : unlink(to);
    if (removed < 0) return removed;
  }
  nodes_[from.parent].entries.erase(from.name);
  nodes_[to.parent].entries.emplace(to.name, from.node);
  if (directory) nodes_[from.node].parent = to.parent;
  return 0;
}

std::vector<uint8_t>& Tmpfs::writable_data(Node& node) {
  if (!node.data) {
    node.data = std::make_shared<std::vector<uint8_t>>();
  } else if (node.data.use_count() != 1) {
    node.data = std::make_shared<std::vector<uint8_t>>(*node.data);
  }
  return *node.data;
}

int64_t Tmpfs::resize(Node& node, uint64_t bytes) {
  uint64_t now = node.size();
  if (bytes > now && bytes - now > bytes_max_ - bytes_used_) return -ENOSPC;
  writable_data(node).resize(bytes);
  bytes_used_ = bytes_used_ - now + bytes;
  return 0;
}

int64_t Tmpfs::truncate(Ino ino, uint64_t bytes, int64_t now_ns) {
  if (of_base(ino)) return -EROFS;
  Node& node = nodes_[ino];
  if (node.kind == Kind::kDirectory) return -EISDIR;
  if (node.kind != Kind::kFile) return -EINVAL;
  if (bytes > bytes_max_) return -EFBIG;
  node.modified_ns = now_ns;
  return resize(node, bytes);
}

int64_t Tmpfs::write(Ino ino, uint64_t offset, std::span<const uint8_t> bytes, int64_t now_ns) {
  CHECK(!of_base(ino));  // such files are not opened for writing
  Node& node = nodes_[ino];
  CHECK(node.kind == Kind::kFile);
  if (bytes.empty()) return 0;
  if (offset > bytes_max_ || bytes.size() > bytes_max_ - offset) return -ENOSPC;
  if (offset + bytes.size() > node.size()) {
    if (int64_t grown = resize(node, offset + bytes.size()); grown < 0) return grown;
  }
  std::memcpy(writable_data(node).data() + offset, bytes.data(), bytes.size());
  node.modified_ns = now_ns;
  return static_cast<int64_t>(bytes.size());
}

std::span<const uint8_t> Tmpfs::read(Ino ino, uint64_t offset, uint64_t bytes) const {
  const Node& file = node(ino);
  if (offset >= file.size()) return {};
  return std::span(*file.data).subspan(offset, std::min(bytes, file.size() - offset));
}

void Tmpfs::open(Ino ino) {
  if (!of_base(ino)) nodes_[ino].opens++;
}

void Tmpfs::close(Ino ino) {
  if (of_base(ino)) return;
  CHECK(nodes_[ino].opens > 0);
  nodes_[ino].opens--;
  free_if_unused(ino);
}

void Tmpfs::free_if_unused(Ino ino) {
  Node& node = nodes_[ino];
  if (node.links > 0 || node.opens > 0) return;
  bytes_used_ -= node.size();
  node = Node{};
  nodes_used_--;
}

}  // namespace sluice::vmm
