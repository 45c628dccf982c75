#include "executor/vmm/tmpfs.h"

#include <cerrno>
#include <random>

#include <gtest/gtest.h>

#include "executor/vmm/files.h"
#include "executor/vmm/limits.h"
#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

Tmpfs::Found at(const Tmpfs& fs, std::string_view path, int64_t expected = 0) {
  Tmpfs::Found found;
  EXPECT_EQ(fs.find(Tmpfs::kRoot, path, true, found), expected) << path;
  return found;
}

Tmpfs::Ino make(Tmpfs& fs, std::string_view path, Tmpfs::Kind kind = Tmpfs::Kind::kFile) {
  auto found = at(fs, path);
  EXPECT_EQ(fs.create(found, kind, 0600, 0), 0) << path;
  return found.node;
}

TEST(Tmpfs, SizeIsBoundedAtTheLimit) {
  Tmpfs fs(1000);
  auto file = make(fs, "/tmp/f");
  std::vector<uint8_t> bytes(1001, 'x');
  EXPECT_EQ(fs.write(file, 0, std::span(bytes).first(999), 0), 999);
  EXPECT_EQ(fs.write(file, 999, std::span(bytes).first(1), 0), 1);
  EXPECT_EQ(fs.write(file, 1000, std::span(bytes).first(1), 0), -ENOSPC);
  EXPECT_EQ(fs.write(file, UINT64_MAX - 1, std::span(bytes).first(5), 0), -ENOSPC);
  EXPECT_EQ(fs.truncate(file, 1001, 0), -EFBIG);
  auto second = make(fs, "/tmp/g");
  EXPECT_EQ(fs.truncate(second, 1, 0), -ENOSPC);
  EXPECT_EQ(fs.truncate(file, 10, 0), 0);
  EXPECT_EQ(fs.truncate(second, 990, 0), 0);
  EXPECT_EQ(fs.bytes_used(), 1000u);
  EXPECT_EQ(fs.unlink(at(fs, "/tmp/f")), 0);
  EXPECT_EQ(fs.bytes_used(), 990u);
}

TEST(Tmpfs, NumberOfNodesIsBounded) {
  Tmpfs fs(1 << 20);
  int64_t made = 0;
  for (uint32_t i = 0; made == 0 && i <= kTmpfsNodesMax; i++) {
    auto found = at(fs, "/tmp/" + std::to_string(i));
    made = fs.create(found, Tmpfs::Kind::kFile, 0600, 0);
  }
  EXPECT_EQ(made, -ENOSPC);
  EXPECT_EQ(fs.nodes_used(), kTmpfsNodesMax);
}

TEST(Tmpfs, PathsAreResolvedWithinIt) {
  Tmpfs fs(1000);
  make(fs, "/tmp/d", Tmpfs::Kind::kDirectory);
  auto file = make(fs, "/tmp/d/f");
  EXPECT_EQ(at(fs, "//tmp/./d/../d//f").node, file);
  EXPECT_EQ(at(fs, "/../../..").node, Tmpfs::kRoot);
  at(fs, "/tmp/d/f/", -ENOTDIR);
  at(fs, "/tmp/d/f/x", -ENOTDIR);
  at(fs, "/tmp/none/x", -ENOENT);
  at(fs, "", -ENOENT);
  at(fs, std::string(kPathBytesMax, 'x'), -ENAMETOOLONG);
  at(fs, "/" + std::string(kNameBytesMax + 1, 'x'), -ENAMETOOLONG);
}

TEST(Tmpfs, DirectoriesCanNotBecomeTheirOwnParents) {
  Tmpfs fs(1000);
  make(fs, "/a", Tmpfs::Kind::kDirectory);
  make(fs, "/a/b", Tmpfs::Kind::kDirectory);
  EXPECT_EQ(fs.rename(at(fs, "/a"), at(fs, "/a/b/c")), -EINVAL);
  EXPECT_EQ(fs.rename(at(fs, "/a/.."), at(fs, "/x")), -EBUSY);
  EXPECT_EQ(fs.rmdir(at(fs, "/")), -EBUSY);
  EXPECT_EQ(fs.rmdir(at(fs, "/a")), -ENOTEMPTY);
}

TEST(Tmpfs, CopiesAreIndependent) {
  Tmpfs fs(1000);
  auto file = make(fs, "/tmp/f");
  const uint8_t a[] = {'a'}, b[] = {'b'};
  fs.write(file, 0, a, 0);
  Tmpfs copy = fs;
  copy.write(file, 0, b, 0);
  copy.unlink(at(copy, "/tmp/f"));
  EXPECT_EQ(fs.read(file, 0, 10)[0], 'a');
  EXPECT_EQ(at(fs, "/tmp/f").node, file);
}

// Random operations keep the accounts right and never lead outside.
TEST(Tmpfs, RandomOperationsKeepItConsistent) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  Tmpfs fs(100'000);
  std::vector<Tmpfs::Ino> open;
  auto path = [&] {
    std::string p;
    for (uint64_t i = 0, n = 1 + random() % 4; i < n; i++) {
      const char* parts[] = {"a", "b", "c", "..", ".", "tmp"};
      p += std::string("/") + parts[random() % 6];
    }
    return p;
  };
  for (int i = 0; i < 20'000; i++) {
    Tmpfs::Found found, to;
    Tmpfs::Ino from = Tmpfs::kRoot;
    if (!open.empty() && random() % 3 == 0) from = open[random() % open.size()];
    if (fs.node(from).kind != Tmpfs::Kind::kDirectory) from = Tmpfs::kRoot;
    std::string where = path();
    if (from != Tmpfs::kRoot) where.erase(0, 1);
    if (fs.find(from, where, random() % 2 == 0, found) < 0) continue;
    switch (random() % 7) {
      case 0:
      case 1:
        if (found.node == 0) {
          auto kind = random() % 2 ? Tmpfs::Kind::kFile : Tmpfs::Kind::kDirectory;
          fs.create(found, kind, 0600, 0);
        }
        break;
      case 2:
        fs.unlink(found);
        break;
      case 3:
        fs.rmdir(found);
        break;
      case 4:
        if (fs.find(Tmpfs::kRoot, path(), false, to) == 0) fs.rename(found, to);
        break;
      case 5:
        if (found.node != 0 && open.size() < 20) {
          fs.open(found.node);
          open.push_back(found.node);
        } else if (!open.empty()) {
          fs.close(open.back());
          open.pop_back();
        }
        break;
      default:
        if (found.node != 0) fs.truncate(found.node, random() % 20'000, 0);
        break;
    }
    if (found.node != 0 && fs.node(Tmpfs::kRoot).kind == Tmpfs::Kind::kDirectory) {
      fs.path_of(Tmpfs::kRoot);
    }
    ASSERT_LE(fs.bytes_used(), fs.bytes_max());
  }
}

TEST(FileTable, DescriptorsAreBoundedAndReused) {
  FileTable files(6);
  FileTable::Description d{Tmpfs::Kind::kNull, 0, 0, 0, 0};
  EXPECT_EQ(files.add(d, false), 4);
  EXPECT_EQ(files.duplicate(4, 0, true), 5);
  EXPECT_EQ(files.add(d, false), -EMFILE);
  EXPECT_EQ(files.get(6), nullptr);
  EXPECT_EQ(files.get(UINT64_MAX), nullptr);
  files.close(4);
  EXPECT_EQ(files.add(d, false), 4);
}

}  // namespace
}  // namespace sluice::vmm
