#include "tools/cli/rootfs_tree.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tools/cli/limits.h"
#include "tools/cli/rootfs_read.h"

namespace sluice::cli {
namespace {

using Kind = RootfsTree::Kind;

Expected<LeftOut> read_back(RootfsTree& tree, std::string_view tar) {
  return read_tar(
      tree, tar, "test.tar", [](std::string_view) { return true; }, [](uint64_t) {});
}

TEST(RootfsTree, MakesParentsAndNormalisesPaths) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_file("//usr/./bin///jq", 0755, "elf"));
  ASSERT_NE(tree.find("/usr/bin/jq"), nullptr);
  EXPECT_EQ(tree.find("usr/bin/jq")->content, "elf");
  EXPECT_EQ(tree.find("usr")->kind, Kind::kDirectory);
  EXPECT_EQ(tree.find("usr/bin/nothing"), nullptr);
  EXPECT_EQ(tree.entries(), 3u);
  EXPECT_EQ(tree.bytes(), 3u);
}

TEST(RootfsTree, DropsSetIdsAndKeepsTheStickyBit) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_file("su", 06755, ""));
  ASSERT_TRUE(tree.add_directory("tmp", 03777));
  EXPECT_EQ(tree.find("su")->mode, 0755u);
  EXPECT_EQ(tree.find("tmp")->mode, 01777u);
}

TEST(RootfsTree, RefusesPathsThatLeaveTheRoot) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_symlink("out", "../.."));
  ASSERT_TRUE(tree.add_symlink("a/deep", "../../x"));
  for (const char* path :
       {"..", "../x", "a/../../x", "/..", "out/x", "a/deep/y", "/../etc/passwd"}) {
    EXPECT_FALSE(tree.add_file(path, 0644, "x")) << path;
    EXPECT_FALSE(tree.add_directory(path, 0755)) << path;
    EXPECT_FALSE(tree.add_symlink(path, "t")) << path;
  }
  ASSERT_TRUE(tree.add_file("a/file", 0644, "x"));
  EXPECT_FALSE(tree.add_hardlink("b", "../a/file"));
  EXPECT_FALSE(tree.add_hardlink("../b", "a/file"));
  EXPECT_TRUE(tree.add_file("a/../inside", 0644, "x"));
  EXPECT_NE(tree.find("inside"), nullptr);
}

TEST(RootfsTree, PathsThroughLinksStayInside) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_directory("usr/lib", 0755));
  ASSERT_TRUE(tree.add_symlink("lib", "usr/lib"));
  ASSERT_TRUE(tree.add_symlink("absolute", "/usr/lib"));
  ASSERT_TRUE(tree.add_file("lib/x86/libc.so", 0644, "c"));
  ASSERT_TRUE(tree.add_file("absolute/y", 0644, "y"));
  EXPECT_EQ(tree.real_path("lib/x86/libc.so"), "usr/lib/x86/libc.so");
  EXPECT_EQ(tree.real_path("usr/lib/y"), "usr/lib/y");
  // A package that says "/lib" is a directory does not undo the layout.
  ASSERT_TRUE(tree.add_directory("lib", 0755));
  EXPECT_EQ(tree.real_path("lib"), "usr/lib");
}

TEST(RootfsTree, LinksInCirclesAreRefused) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_symlink("a", "b"));
  ASSERT_TRUE(tree.add_symlink("b", "a"));
  EXPECT_FALSE(tree.add_file("a/x", 0644, ""));
  EXPECT_EQ(tree.find("a"), nullptr);
}

TEST(RootfsTree, WhatComesLaterTakesThePlace) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_file("d/one", 0644, "1"));
  ASSERT_TRUE(tree.add_file("d", 0644, "file"));
  EXPECT_EQ(tree.entries(), 1u);
  EXPECT_EQ(tree.bytes(), 4u);
  EXPECT_FALSE(tree.add_file("d/one", 0644, "through a file"));
  ASSERT_TRUE(tree.add_directory("d", 0700));
  EXPECT_EQ(tree.find("d")->kind, Kind::kDirectory);
  EXPECT_EQ(tree.bytes(), 0u);
}

TEST(RootfsTree, HardLinksShareAFile) {
  RootfsTree tree;
  ASSERT_TRUE(tree.add_file("z", 0644, "content"));
  ASSERT_TRUE(tree.add_hardlink("a", "z"));
  ASSERT_TRUE(tree.add_hardlink("z", "z"));
  EXPECT_EQ(tree.find("a"), tree.find("z"));
  EXPECT_EQ(tree.bytes(), 7u);
  EXPECT_FALSE(tree.add_hardlink("b", "nothing"));
  ASSERT_TRUE(tree.add_directory("d", 0755));
  EXPECT_FALSE(tree.add_hardlink("b", "d"));
}

TEST(RootfsTree, LimitsOfNamesAndPaths) {
  RootfsTree tree;
  const std::string name(kRootfsNameBytesMax, 'n');
  EXPECT_TRUE(tree.add_file(name, 0644, ""));
  EXPECT_FALSE(tree.add_file(name + "n", 0644, ""));
  std::string path = "p";
  while (path.size() + 2 <= kRootfsPathBytesMax) path += "/p";
  EXPECT_EQ(path.size(), kRootfsPathBytesMax);
  EXPECT_TRUE(tree.add_file(path, 0644, ""));
  EXPECT_FALSE(tree.add_file(path + "p", 0644, ""));
  EXPECT_FALSE(tree.add_file(std::string("a\0b", 3), 0644, ""));
  EXPECT_FALSE(tree.add_symlink("l", ""));
  EXPECT_FALSE(tree.add_symlink("l", std::string(kRootfsPathBytesMax + 1, 't')));
  EXPECT_FALSE(tree.add_file("", 0644, ""));
  EXPECT_FALSE(tree.add_file("/", 0644, ""));
  EXPECT_TRUE(tree.add_directory("./", 0755));
}

TEST(RootfsTree, LimitOfEntries) {
  RootfsTree tree;
  for (size_t i = 1; i < kRootfsEntriesMax; ++i) {
    ASSERT_TRUE(tree.add_file("f" + std::to_string(i), 0644, ""));
  }
  EXPECT_TRUE(tree.add_file("last", 0644, ""));
  const auto refused = tree.add_file("more", 0644, "");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kLimit);
}

// A tree with everything, added in an order of one's own.
RootfsTree sample(bool backwards) {
  RootfsTree tree;
  const std::string long_path = std::string(120, 'd') + "/" + std::string(200, 'f');
  std::vector<std::function<void()>> steps = {
      [&] { EXPECT_TRUE(tree.add_file("bin/tool", 0755, std::string(1000, 't'))); },
      [&] { EXPECT_TRUE(tree.add_symlink("lib", "usr/lib")); },
      [&] { EXPECT_TRUE(tree.add_symlink("long", std::string(300, 'l'))); },
      [&] { EXPECT_TRUE(tree.add_file(long_path, 0600, "deep")); },
      [&] { EXPECT_TRUE(tree.add_directory("tmp", 01777)); },
      [&] { EXPECT_TRUE(tree.add_file("caf\xC3\xA9", 0644, std::string(512, 'u'))); },
      [&] { EXPECT_TRUE(tree.add_file("latin\xE9", 0644, "")); },
  };
  if (backwards) std::reverse(steps.begin(), steps.end());
  for (const auto& step : steps) step();
  EXPECT_TRUE(tree.add_hardlink("bin/alias", "bin/tool"));
  EXPECT_TRUE(tree.add_hardlink(std::string(150, 'h'), long_path));
  return tree;
}

TEST(RootfsTar, IsTheSameWhateverTheOrder) {
  EXPECT_EQ(sample(false).to_tar(), sample(true).to_tar());
}

TEST(RootfsTar, IsReadBackAsItWas) {
  const RootfsTree tree = sample(false);
  const std::string tar = tree.to_tar();
  EXPECT_EQ(tar.size() % 512, 0u);
  RootfsTree again;
  const auto read = read_back(again, tar);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(again.to_tar(), tar);
  EXPECT_EQ(again.find("bin/tool"), again.find("bin/alias"));
  EXPECT_EQ(again.find("bin/tool")->mode, 0755u);
  EXPECT_EQ(again.find("tmp")->mode, 01777u);
  EXPECT_EQ(again.find("caf\xC3\xA9")->content.size(), 512u);
  EXPECT_NE(again.find("latin\xE9"), nullptr);
}

TEST(RootfsTar, PathsAtTheEdgesOfTheHeader) {
  // What fits the name, what is split, and what needs a pax header.
  for (size_t first = 1; first <= 200; first += 7) {
    for (size_t second = 98; second <= 103; ++second) {
      RootfsTree tree;
      const std::string path = std::string(first, 'a') + "/" + std::string(second, 'b');
      ASSERT_TRUE(tree.add_file(path, 0644, "x"));
      RootfsTree again;
      ASSERT_TRUE(read_back(again, tree.to_tar()));
      ASSERT_NE(again.find(path), nullptr) << first << "/" << second;
    }
  }
}

TEST(ReadTar, RefusesWhatIsNoArchive) {
  const std::string tar = sample(false).to_tar();
  RootfsTree tree;
  EXPECT_FALSE(read_back(tree, ""));
  EXPECT_FALSE(read_back(tree, "no archive"));
  EXPECT_FALSE(read_back(tree, std::string(10240, '\xFF')));
  // In the middle of a file's content.
  EXPECT_FALSE(read_back(tree, tar.substr(0, tar.size() / 2)));
}

void fix_checksum(std::string& tar, size_t block) {
  uint32_t sum = 8 * ' ';
  for (size_t i = 0; i < 512; ++i) {
    if (i < 148 || i >= 156) sum += static_cast<unsigned char>(tar[block + i]);
  }
  char digits[8];
  std::snprintf(digits, sizeof digits, "%06o", sum);
  tar.replace(block + 148, 7, digits, 7);
}

// Whatever an archive says, it is refused, or what was taken is a tree like any other.
TEST(ReadTar, MangledArchivesGiveATreeOrAnError) {
  const char* given = std::getenv("SLUICE_TEST_SEED");
  const auto seed =
      given != nullptr ? static_cast<uint32_t>(std::atoi(given)) : std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string whole = sample(false).to_tar();
  size_t taken = 0;
  for (int i = 0; i < 500; ++i) {
    std::string tar = whole;
    for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % tar.size();
      tar[at] = static_cast<char>(random());
      const size_t block = at / 512 * 512;
      if (random() % 2 == 0 && block + 512 <= tar.size()) fix_checksum(tar, block);
      if (random() % 8 == 0) tar.resize(at + 1);
    }
    RootfsTree tree;
    if (!read_back(tree, tar) || tree.entries() == 0) continue;
    ++taken;
    RootfsTree again;
    const auto read = read_back(again, tree.to_tar());
    ASSERT_TRUE(read) << read.error().message;
    ASSERT_EQ(again.to_tar(), tree.to_tar());
  }
  EXPECT_GT(taken, 0u);
}

TEST(ReadTar, RefusesEntriesThatLeaveTheRoot) {
  // The same archive, with the name of its only entry changed.
  RootfsTree one;
  ASSERT_TRUE(one.add_file("xx/evil", 0644, "x"));
  std::string tar = one.to_tar();
  const size_t at = tar.find("xx/evil");
  tar.replace(at, 2, "..");
  fix_checksum(tar, at);
  RootfsTree tree;
  const auto read = read_back(tree, tar);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find("leaves the root"), std::string::npos)
      << read.error().message;
}

}  // namespace
}  // namespace sluice::cli
