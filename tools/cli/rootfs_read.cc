#include "tools/cli/rootfs_read.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/limits.h"
#include "tools/cli/read_input.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

std::unexpected<Error> cannot_read(const std::string& path, int error) {
  const Code code = error == ENOENT ? Code::kNotFound : Code::kIo;
  return fail(code, fmt::format("cannot read '{}': {}", path, std::strerror(error)));
}

Expected<std::string> link_target(const std::string& path) {
  std::string target(kRootfsPathBytesMax + 1, '\0');
  const ssize_t size = readlink(path.c_str(), target.data(), target.size());
  if (size < 0) return cannot_read(path, errno);
  target.resize(static_cast<size_t>(size));
  return target;
}

// Adds what `status` says of `path`; false for what is no part of a root file system.
Expected<bool> add_entry(RootfsTree& tree, const std::string& path, std::string_view destination,
                         const struct stat& status, LeftOut& left_out) {
  const auto added = [](const Expected<>& done) -> Expected<bool> {
    if (!done) return std::unexpected(done.error());
    return true;
  };
  switch (status.st_mode & S_IFMT) {
    case S_IFDIR:
      return added(tree.add_directory(destination, status.st_mode));
    case S_IFLNK: {
      auto target = link_target(path);
      if (!target) return std::unexpected(target.error());
      return added(tree.add_symlink(destination, std::move(*target)));
    }
    case S_IFREG: {
      if (status.st_mode & (S_ISUID | S_ISGID)) ++left_out.set_ids;
      const uint64_t room = kRootfsBytesMax - std::min(kRootfsBytesMax, tree.bytes());
      // It may grow while it is read.
      auto content = static_cast<uint64_t>(status.st_size) > room
                         ? Expected<std::string>(fail(Code::kLimit, ""))
                         : read_input(path, room);
      if (!content && content.error().code == Code::kLimit) {
        return fail(
            Code::kLimit,
            fmt::format("the root file system has more than {} with '{}'; leave out what the "
                        "program does not need",
                        human_bytes(kRootfsBytesMax), path));
      }
      if (!content) return std::unexpected(content.error());
      return added(tree.add_file(destination, status.st_mode, std::move(*content)));
    }
    case S_IFSOCK:
      ++left_out.sockets;
      return false;
    case S_IFIFO:
      ++left_out.fifos;
      return false;
    default:
      ++left_out.devices;
      return false;
  }
}

// The names in a directory, in order: which of several hard links is the first may not depend on
// the file system.
Expected<std::vector<std::string>> names_in(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return cannot_read(path, errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    if (names.size() > kRootfsEntriesMax) {
      return fail(Code::kLimit, fmt::format("'{}' has more than {} entries; is it the directory "
                                            "that was meant?",
                                            path, kRootfsEntriesMax));
    }
    errno = 0;
  }
  if (errno != 0) return cannot_read(path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

class DirectoryReader {
 public:
  DirectoryReader(RootfsTree& tree, std::string root, const EntrySeen& seen)
      : tree_(tree), root_(std::move(root)), seen_(seen) {
    while (root_.size() > 1 && root_.ends_with('/')) root_.pop_back();
  }

  Expected<LeftOut> run() {
    struct stat status {};
    if (stat(root_.c_str(), &status) != 0) return cannot_read(root_, errno);
    device_ = status.st_dev;
    // A stack, not recursion: how deep a tree is, its owner decides.
    std::vector<std::string> waiting = {""};
    while (!waiting.empty()) {
      const std::string directory = std::move(waiting.back());
      waiting.pop_back();
      const auto names = names_in(under_root(directory));
      if (!names) return std::unexpected(names.error());
      for (const std::string& name : *names) {
        const std::string path = directory.empty() ? name : directory + "/" + name;
        const auto enter = add(path);
        if (!enter) return std::unexpected(enter.error());
        if (*enter) waiting.push_back(path);
      }
    }
    return left_out_;
  }

 private:
  std::string under_root(const std::string& path) const {
    return root_ == "/" ? root_ + path : root_ + "/" + path;
  }

  // True for a directory that is to be read as well.
  Expected<bool> add(const std::string& path) {
    const std::string source = under_root(path);
    seen_(++entries_);
    const auto directory = read_one(tree_, source, path, first_names_, left_out_);
    if (!directory || !*directory) return directory;
    struct stat status {};
    return lstat(source.c_str(), &status) == 0 && status.st_dev == device_;
  }

  RootfsTree& tree_;
  std::string root_;
  const EntrySeen& seen_;
  dev_t device_ = 0;
  uint64_t entries_ = 0;
  FirstNames first_names_;
  LeftOut left_out_;
};

}  // namespace

std::string LeftOut::sentence() const {
  std::string text;
  const auto say = [&](uint64_t count, std::string_view noun) {
    if (count > 0) text += (text.empty() ? "left out " : ", ") + counted(count, noun);
  };
  say(devices, "device");
  say(sockets, "socket");
  say(fifos, "named pipe");
  if (set_ids > 0) {
    text += fmt::format("{}{} without its set-id bit", text.empty() ? "took " : "; took ",
                        counted(set_ids, "file"));
  }
  return text;
}

Expected<LeftOut> read_directory(RootfsTree& tree, const std::string& path, const EntrySeen& seen) {
  return DirectoryReader(tree, path, seen).run();
}

Expected<LeftOut> read_rootfs(RootfsTree& tree, const std::string& path, const EntrySeen& seen) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return cannot_read(path, errno);
  if (S_ISDIR(status.st_mode)) return read_directory(tree, path, seen);
  const auto archive = read_input(path, kRootfsBytesMax);
  if (!archive) return std::unexpected(archive.error());
  return read_tar(
      tree, *archive, path, [](std::string_view) { return true; }, seen);
}

Expected<bool> read_one(RootfsTree& tree, const std::string& path, const std::string& destination,
                        FirstNames& first_names, LeftOut& left_out) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return cannot_read(path, errno);
  const bool directory = S_ISDIR(status.st_mode);
  const bool linked = !directory && status.st_nlink > 1;
  const std::pair identity(status.st_dev, status.st_ino);
  if (linked) {
    if (const auto first = first_names.find(identity); first != first_names.end()) {
      if (const auto done = tree.add_hardlink(destination, first->second); !done) {
        return std::unexpected(done.error());
      }
      return false;
    }
  }
  const auto added = add_entry(tree, path, destination, status, left_out);
  if (!added) return added;
  if (linked && *added) first_names.emplace(identity, destination);
  return directory;
}

}  // namespace sluice::cli
