#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::vmm {

class RootFs;

// The private file system of one program: directories, files, links and a few devices. A value:
// copies share file contents until one writes. All errors are negative errno values, as Linux gives
// them. Over a function's root file system it holds /tmp and /dev, and the rest is read-only.
class Tmpfs {
 public:
  using Ino = uint32_t;
  static constexpr Ino kRoot = 1;
  static constexpr Ino kBaseBit = 1u << 31;  // of the root file system's nodes

  enum class Kind : uint8_t {
    kUnused,
    kDirectory,
    kFile,
    kSymbolicLink,
    kNull,
    kZero,
    kRandom,
    kStdin,
    kStdout,
    kStderr,      // under /dev
    kInvocation,  // the function protocol's descriptor
    kPipeEnd,     // these have no node in the file system, but a number in Pipes
    kPipeStart,
    kEvent,
    kEpoll,
  };

  // Pipes and the like: descriptors without a node.
  static bool is_channel(Kind kind) { return kind >= Kind::kPipeEnd; }

  struct Node {
    Kind kind = Kind::kUnused;
    uint32_t mode = 0;   // permission bits only; nothing checks them
    uint32_t links = 0;  // names
    uint32_t opens = 0;  // open descriptions, and working directories
    Ino parent = 0;      // of a directory
    int64_t modified_ns = 0;
    std::map<std::string, Ino, std::less<>> entries;
    std::shared_ptr<std::vector<uint8_t>> data;
    std::string target;  // of a link

    uint64_t size() const { return data ? data->size() : target.size(); }
  };

  // Where a path leads: `node` is 0 when the last component does not exist (its parent does).
  struct Found {
    Ino parent = 0;
    Ino node = 0;
    std::string name;
    bool wants_directory = false;  // the path ended in a slash
  };

  explicit Tmpfs(uint64_t bytes_max, std::shared_ptr<const RootFs> base = nullptr);

  const Node& node(Ino ino) const;
  // The node of that name in a directory, 0 where there is none.
  Ino lookup(Ino directory, std::string_view name) const;
  // What a directory holds, in the order of the names.
  std::vector<std::pair<std::string, Ino>> list(Ino directory) const;
  // Where `path` leads from directory `from`; 0 or an error. A link that ends it is followed only
  // if asked for, or if the path says so by a slash.
  int64_t find(Ino from, std::string_view path, bool follow, Found& found) const;
  std::string path_of(Ino directory) const;

  // Makes a file or directory in `found`, which find() filled and which has no node yet.
  int64_t create(Found& found, Kind kind, uint32_t mode, int64_t now_ns);
  int64_t symlink(Found& found, std::string target, int64_t now_ns);
  int64_t unlink(const Found& found);
  int64_t rmdir(const Found& found);
  int64_t rename(const Found& from, const Found& to);
  int64_t truncate(Ino ino, uint64_t bytes, int64_t now_ns);
  int64_t write(Ino ino, uint64_t offset, std::span<const uint8_t> bytes, int64_t now_ns);
  // The bytes at `offset`, at most `bytes`.
  std::span<const uint8_t> read(Ino ino, uint64_t offset, uint64_t bytes) const;
  int64_t set_mode(Ino ino, uint32_t mode);

  void open(Ino ino);
  void close(Ino ino);

  bool read_only(Ino ino) const { return of_base(ino); }

  uint64_t bytes_used() const { return bytes_used_; }
  uint64_t bytes_max() const { return bytes_max_; }
  uint64_t nodes_used() const { return nodes_used_; }

 private:
  static bool of_base(Ino ino) { return (ino & kBaseBit) != 0; }
  // Whether entries of this directory may be made and removed.
  bool writable_directory(Ino ino) const;
  Ino add(Ino parent, std::string_view name, Kind kind, uint32_t mode);
  void free_if_unused(Ino ino);
  std::vector<uint8_t>& writable_data(Node& node);
  int64_t resize(Node& node, uint64_t bytes);

  std::shared_ptr<const RootFs> base_;
  std::vector<Node> nodes_;
  uint64_t bytes_max_;
  uint64_t bytes_used_ = 0;
  uint32_t nodes_used_ = 0;
};

}  // namespace sluice::vmm
