#include "tools/cli/rootfs_tree.h"

#include <deque>

#include <fmt/format.h>

#include "tools/cli/limits.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

constexpr uint32_t kModeMask = 01777;  // no set-ids
constexpr int kLinksMax = 40;          // as Linux follows them

// The parts between slashes, without empty ones and ".".
std::deque<std::string> split(std::string_view path) {
  std::deque<std::string> parts;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (!part.empty() && part != ".") parts.emplace_back(part);
    path = slash == std::string_view::npos ? "" : path.substr(slash + 1);
  }
  return parts;
}

Expected<> too_large(std::string_view what) {
  return fail(Code::kLimit, fmt::format("the root file system has more than {}; leave out what the "
                                        "program does not need",
                                        what));
}

}  // namespace

Expected<std::string> RootfsTree::resolve(std::string_view path, bool follow) const {
  std::deque<std::string> parts = split(path);
  std::vector<std::string> done;
  const auto joined = [&] {
    std::string text;
    for (const std::string& part : done) text += (text.empty() ? "" : "/") + part;
    return text;
  };
  const auto refuse = [&](std::string_view why) {
    return fail(Code::kInvalid, fmt::format("path '{}' {}", printable(path), why));
  };
  if (path.size() > kRootfsPathBytesMax) return refuse("is too long");
  if (path.find('\0') != std::string_view::npos) return refuse("has a zero byte");

  int links = 0;
  while (!parts.empty()) {
    const std::string part = parts.front();
    parts.pop_front();
    if (part == "..") {
      if (done.empty()) return refuse("leaves the root file system");
      done.pop_back();
      continue;
    }
    if (part.size() > kRootfsNameBytesMax) return refuse("has a part that is too long");
    done.push_back(part);
    const std::string here = joined();
    if (here.size() > kRootfsPathBytesMax) return refuse("is too long");
    const auto found = nodes_.find(here);
    if (found == nodes_.end()) continue;
    const bool last = parts.empty();
    if (found->second->kind == Kind::kFile && !last) return refuse("goes through a file");
    if (found->second->kind != Kind::kSymlink || (last && !follow)) continue;
    if (++links > kLinksMax) return refuse("goes through too many symbolic links");
    const std::string& target = found->second->content;
    if (target.starts_with('/')) {
      done.clear();
    } else {
      done.pop_back();
    }
    const std::deque<std::string> ahead = split(target);
    parts.insert(parts.begin(), ahead.begin(), ahead.end());
  }
  return joined();
}

Expected<> RootfsTree::make_parents(const std::string& path) {
  for (size_t slash = path.find('/'); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string parent = path.substr(0, slash);
    if (nodes_.contains(parent)) continue;
    if (nodes_.size() >= kRootfsEntriesMax) {
      return too_large(fmt::format("{} entries", kRootfsEntriesMax));
    }
    nodes_.emplace(parent, std::make_shared<Node>());
  }
  return {};
}

void RootfsTree::remove(const std::string& path) {
  const auto drop = [&](auto node) {
    if (node->second.use_count() == 1) bytes_ -= node->second->content.size();
    return nodes_.erase(node);
  };
  if (const auto node = nodes_.find(path); node != nodes_.end()) drop(node);
  const std::string below = path + "/";
  for (auto node = nodes_.lower_bound(below);
       node != nodes_.end() && node->first.starts_with(below);) {
    node = drop(node);
  }
}

Expected<std::string> RootfsTree::place(std::string_view path, uint64_t bytes) {
  auto where = resolve(path, false);
  if (!where) return where;
  if (where->empty()) {
    return fail(Code::kInvalid, fmt::format("path '{}' is the root itself", printable(path)));
  }
  if (bytes_ + bytes > kRootfsBytesMax)
    return std::unexpected(too_large(human_bytes(kRootfsBytesMax)).error());
  remove(*where);
  if (nodes_.size() >= kRootfsEntriesMax) {
    return std::unexpected(too_large(fmt::format("{} entries", kRootfsEntriesMax)).error());
  }
  if (const auto made = make_parents(*where); !made) return std::unexpected(made.error());
  return where;
}

Expected<> RootfsTree::add_directory(std::string_view path, uint32_t mode) {
  auto where = resolve(path, true);
  if (!where) return std::unexpected(where.error());
  if (where->empty()) return {};  // the root
  if (const auto found = nodes_.find(*where);
      found != nodes_.end() && found->second->kind == Kind::kDirectory) {
    found->second->mode = mode & kModeMask;
    return {};
  }
  where = place(*where, 0);
  if (!where) return std::unexpected(where.error());
  nodes_[*where] = std::make_shared<Node>(Kind::kDirectory, mode & kModeMask, "");
  return {};
}

Expected<> RootfsTree::add_file(std::string_view path, uint32_t mode, std::string content) {
  const auto where = place(path, content.size());
  if (!where) return std::unexpected(where.error());
  bytes_ += content.size();
  nodes_[*where] = std::make_shared<Node>(Kind::kFile, mode & kModeMask, std::move(content));
  return {};
}

Expected<> RootfsTree::add_symlink(std::string_view path, std::string target) {
  if (target.empty() || target.size() > kRootfsPathBytesMax ||
      target.find('\0') != std::string::npos) {
    return fail(Code::kInvalid,
                fmt::format("symbolic link '{}' leads to no possible path", printable(path)));
  }
  const auto where = place(path, target.size());
  if (!where) return std::unexpected(where.error());
  bytes_ += target.size();
  nodes_[*where] = std::make_shared<Node>(Kind::kSymlink, 0777, std::move(target));
  return {};
}

Expected<> RootfsTree::add_hardlink(std::string_view path, std::string_view existing) {
  const auto target = resolve(existing, false);
  if (!target) return std::unexpected(target.error());
  const auto found = nodes_.find(*target);
  if (found == nodes_.end() || found->second->kind == Kind::kDirectory) {
    return fail(Code::kInvalid, fmt::format("hard link '{}' names '{}', which is no file before it",
                                            printable(path), printable(existing)));
  }
  const std::shared_ptr<Node> node = found->second;
  if (const auto same = resolve(path, false); same && *same == *target) return {};
  const auto where = place(path, 0);
  if (!where) return std::unexpected(where.error());
  nodes_[*where] = node;
  return {};
}

const RootfsTree::Node* RootfsTree::find(std::string_view path) const {
  const auto where = resolve(path, true);
  if (!where) return nullptr;
  const auto found = nodes_.find(*where);
  return found == nodes_.end() ? nullptr : found->second.get();
}

std::string RootfsTree::real_path(std::string_view path) const {
  const auto where = resolve(path, true);
  return where && nodes_.contains(*where) ? *where : "";
}

}  // namespace sluice::cli
