// Root file systems: the archive, the tree, and the private file system on top.

#include "executor/vmm/rootfs.h"

#include <cerrno>
#include <random>

#include "executor/vmm/executable.h"
#include "executor/vmm/limits.h"
#include "executor/vmm/tar.h"
#include "tests/executor/harness.h"
#include "tests/executor/tar_writer.h"

namespace sluice::vmm {
namespace {

std::shared_ptr<const RootFs> tree(const TarWriter& tar) {
  auto made = RootFs::from_tar(tar.finish());
  EXPECT_TRUE(made) << made.error().message;
  return made ? *made : nullptr;
}

std::string refusal(const TarWriter& tar) {
  auto made = RootFs::from_tar(tar.finish());
  return made ? "accepted" : made.error().message;
}

Tmpfs::Found at(const Tmpfs& fs, std::string_view path, int64_t expected = 0, bool follow = true) {
  Tmpfs::Found found;
  EXPECT_EQ(fs.find(Tmpfs::kRoot, path, follow, found), expected) << path;
  return found;
}

std::string text(const Tmpfs& fs, std::string_view path) {
  auto found = at(fs, path);
  if (found.node == 0) return "nothing";
  auto bytes = fs.read(found.node, 0, 1000);
  return {bytes.begin(), bytes.end()};
}

TEST(RootFsTest, HoldsWhatTheArchiveHas) {
  TarWriter tar;
  tar.directory("./").directory("usr/").file("usr/lib/a", "A", 0640).file("/etc/b", "B");
  tar.symlink("lib", "usr/lib").symlink("usr/back", "/etc").hard_link("etc/c", "usr/lib/a");
  Tmpfs fs(1000, tree(tar));
  EXPECT_EQ(text(fs, "/usr/lib/a"), "A");
  EXPECT_EQ(text(fs, "/lib/a"), "A");
  EXPECT_EQ(text(fs, "/usr/back/b"), "B");
  EXPECT_EQ(text(fs, "/lib/../../etc/c"), "A");
  EXPECT_EQ(fs.node(at(fs, "/usr/lib/a").node).mode, 0640u);
  EXPECT_EQ(fs.node(at(fs, "/etc/c").node).links, 2u);
  EXPECT_EQ(fs.path_of(at(fs, "/lib/").node), "/usr/lib");
  EXPECT_EQ(at(fs, "/lib", 0, false).name, "lib");
  std::string names;
  for (const auto& [name, ino] : fs.list(Tmpfs::kRoot)) names += name + " ";
  EXPECT_EQ(names, "dev etc lib tmp usr ");
}

TEST(RootFsTest, OnlyTmpIsWritable) {
  Tmpfs fs(1000, tree(TarWriter().file("etc/a", "A").file("tmp/hidden", "H").directory("d")));
  auto fresh = at(fs, "/new");
  EXPECT_EQ(fs.create(fresh, Tmpfs::Kind::kFile, 0600, 0), -EROFS);
  auto below = at(fs, "/etc/new");
  EXPECT_EQ(fs.create(below, Tmpfs::Kind::kFile, 0600, 0), -EROFS);
  EXPECT_EQ(fs.unlink(at(fs, "/etc/a")), -EROFS);
  EXPECT_EQ(fs.rmdir(at(fs, "/d")), -EROFS);
  EXPECT_EQ(fs.truncate(at(fs, "/etc/a").node, 0, 0), -EROFS);
  EXPECT_EQ(fs.set_mode(at(fs, "/etc/a").node, 0777), -EROFS);
  EXPECT_EQ(fs.rename(at(fs, "/etc/a"), at(fs, "/tmp/a")), -EROFS);
  EXPECT_EQ(fs.rename(at(fs, "/tmp"), at(fs, "/other")), -EROFS);
  EXPECT_EQ(text(fs, "/etc/a"), "A");
  EXPECT_EQ(at(fs, "/tmp/hidden").node, 0u);
  auto file = at(fs, "/tmp/f");
  EXPECT_EQ(fs.create(file, Tmpfs::Kind::kFile, 0600, 0), 0);
  fs.open(at(fs, "/etc/a").node);
  fs.close(at(fs, "/etc/a").node);
}

TEST(RootFsTest, LinksThatLeadInCirclesEnd) {
  Tmpfs fs(100'000, tree(TarWriter().symlink("a", "b").symlink("b", "a").symlink("up", "..")));
  at(fs, "/a", -ELOOP);
  EXPECT_EQ(at(fs, "/up/up/up").node, Tmpfs::kRoot);
  auto link = at(fs, "/tmp/l");
  EXPECT_EQ(fs.symlink(link, "l/" + std::string(200, 'x') + "/y", 0), 0);
  at(fs, "/tmp/l/y", -ELOOP);
  std::string chain = "x";
  for (uint32_t i = 0; i <= kSymbolicLinksMax; i++) {
    auto next = at(fs, "/tmp/c" + std::to_string(i), 0, false);
    std::string target = i == 0 ? "/dev" : "c" + std::to_string(i - 1);
    EXPECT_EQ(fs.symlink(next, target, 0), 0);
  }
  at(fs, "/tmp/c" + std::to_string(kSymbolicLinksMax - 1));
  at(fs, "/tmp/c" + std::to_string(kSymbolicLinksMax), -ELOOP);
}

TEST(RootFsTest, LinksOfTheProgramCountAgainstItsFileSystem) {
  Tmpfs fs(10);
  auto link = at(fs, "/tmp/l");
  EXPECT_EQ(fs.symlink(link, "12345678901", 0), -ENOSPC);
  EXPECT_EQ(fs.symlink(link, "1234567890", 0), 0);
  EXPECT_EQ(fs.bytes_used(), 10u);
  EXPECT_EQ(fs.unlink(at(fs, "/tmp/l", 0, false)), 0);
  EXPECT_EQ(fs.bytes_used(), 0u);
}

TEST(RootFsTest, ArchivesThatLeaveTheRootAreRefused) {
  EXPECT_NE(refusal(TarWriter().file("../a", "x")).find("outside the root"), std::string::npos);
  EXPECT_NE(refusal(TarWriter().file("a/../../b", "x")).find("outside the root"),
            std::string::npos);
  EXPECT_NE(refusal(TarWriter().symlink("l", "/etc").file("l/a", "x")).find("not a directory"),
            std::string::npos);
  EXPECT_NE(refusal(TarWriter().hard_link("a", "../../etc/passwd")).find("outside the root"),
            std::string::npos);
  EXPECT_NE(refusal(TarWriter().hard_link("a", "b")).find("not a file"), std::string::npos);
  EXPECT_NE(refusal(TarWriter().directory("d").file("d", "x")).find("directory's place"),
            std::string::npos);
  EXPECT_NE(refusal(TarWriter().file("a", "x").file("a/b", "x")).find("not a directory"),
            std::string::npos);
}

TEST(RootFsTest, LaterEntriesTakeThePlaceOfEarlierOnes) {
  Tmpfs fs(10, tree(TarWriter().file("a", "1").file("a", "2").directory("d").directory("d")));
  EXPECT_EQ(text(fs, "/a"), "2");
}

TEST(TarTest, LongNamesOfBothKindsAreRead) {
  std::string deep(150, 'd');
  TarWriter tar;
  tar.add("pax", 'x', "", 0,
          "163 path=" + deep +
              "/f\n"
              "15 comment=xyz\n");
  EXPECT_EQ(refusal(tar).find("malformed pax header") != std::string::npos, true);
  TarWriter good;
  std::string record = " path=" + deep + "/f\n";
  good.add("pax", 'x', "", 0, std::to_string(record.size() + 3) + record).file("short", "1");
  good.add("gnu", 'L', "", 0, deep + "/g" + '\0').file("short", "2").file("plain", "3");
  Tmpfs fs(10, tree(good));
  EXPECT_EQ(text(fs, "/" + deep + "/f"), "1");
  EXPECT_EQ(text(fs, "/" + deep + "/g"), "2");
  EXPECT_EQ(text(fs, "/plain"), "3");
}

TEST(TarTest, DamageIsFoundOrHarmless) {
  auto bytes = TarWriter()
                   .directory("d")
                   .file("d/f", std::string(700, 'x'))
                   .symlink("l", "d/f")
                   .hard_link("h", "d/f")
                   .add("pax", 'x', "", 0, "12 path=abc\n")
                   .file("q", "y")
                   .finish();
  for (size_t cut = 0; cut < bytes.size(); cut += 37) {
    (void)RootFs::from_tar(std::span(bytes).first(cut));
  }
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20'000; i++) {
    auto mutant = bytes;
    size_t changes = 1 + random() % 4;
    for (size_t c = 0; c < changes; c++) {
      size_t header = random() % (mutant.size() / 512) * 512;
      mutant[header + random() % 512] = static_cast<uint8_t>(random());
      // With a checksum that fits again, or the rest would not be looked at.
      unsigned sum = 0;
      for (size_t b = 0; b < 512; b++) sum += b >= 148 && b < 156 ? ' ' : mutant[header + b];
      std::snprintf(reinterpret_cast<char*>(&mutant[header + 148]), 8, "%06o", sum & 0777777);
    }
    auto made = RootFs::from_tar(mutant);
    EXPECT_TRUE(!made || (*made)->bytes() <= 10 * bytes.size());
  }
}

// A dynamically linked guest with the C library of this machine.
TarWriter with_c_library() {
  TarWriter tar;
  tar.copy("lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2");
  tar.copy("lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6");
  return tar;
}

std::string guest_file(const std::string& name) {
  auto bytes = read_guest(name);
  return {bytes.begin(), bytes.end()};
}

CallResult call_in(const TarWriter& tar, const std::string& path, std::vector<std::string> args,
                   const std::string& input, int calls = 2) {
  auto archive = tar.finish();
  Program program{.name = "f", .rootfs = archive, .image_path = path, .args = std::move(args)};
  auto snapshot = Snapshot::load(machine(), program, {});
  if (!snapshot) return {.ending = {Outcome::kBadImage, 0, snapshot.error().message}};
  EXPECT_TRUE((*snapshot)->at_first_read()) << (*snapshot)->warning();
  auto sandbox = Sandbox::clone(machine(), *snapshot);
  EXPECT_TRUE(sandbox);
  CallResult result;
  for (int i = 0; i < calls && (*sandbox)->ready(); i++) {
    result = (*sandbox)->call(bytes_of(input));
  }
  return result;
}

TEST(DynamicTest, AProgramIsLinkedInItsRootFileSystem) {
  auto tar = with_c_library().file("bin/echo", guest_file("echo_dynamic"), 0755);
  CallResult r = call_in(tar, "/bin/echo", {"/bin/echo", "show"}, "in");
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message << r.log;
  EXPECT_EQ(r.output,
            "arg /bin/echo\narg show\nenv PATH=/usr/local/bin:/usr/bin:/bin\nenv SLUICE_FD=3\nin");
}

TEST(DynamicTest, AScriptRunsByItsFirstLine) {
  auto tar = with_c_library()
                 .file("bin/echo", guest_file("echo_dynamic"), 0755)
                 .symlink("bin/interpreter", "echo")
                 .file("app/script", "#! /bin/interpreter   show me \nwhatever\n", 0755);
  CallResult r = call_in(tar, "/app/script", {"script", "a"}, "in");
  EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message << r.log;
  // The rest of the line is one argument, so this is not the word that it knows.
  EXPECT_EQ(r.output, "in");
  EXPECT_EQ(r.log, "2 bytes");
}

TEST(DynamicTest, WhatIsMissingIsNamed) {
  std::string echo = guest_file("echo_dynamic");
  auto says = [&](const TarWriter& tar, const std::string& path) {
    return call_in(tar, path, {"x"}, "").ending.message;
  };
  EXPECT_NE(says(TarWriter().file("bin/echo", echo), "/bin/echo").find("dynamic linker"),
            std::string::npos);
  EXPECT_NE(says(with_c_library(), "/bin/echo").find("has no '/bin/echo'"), std::string::npos);
  EXPECT_NE(says(with_c_library(), "/lib").find("not a file"), std::string::npos);
  EXPECT_NE(says(TarWriter().file("s", "#!/bin/none\n"), "/s").find("interpreter"),
            std::string::npos);
  EXPECT_NE(says(TarWriter().file("s", "#!/s\n"), "/s").find("script whose"), std::string::npos);
  auto image = read_guest("echo_dynamic");
  auto refused = Snapshot::load(machine(), {.name = "e", .image = image, .args = {"e"}}, {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("link it with -static"), std::string::npos);
  EXPECT_NE(refused.error().message.find("--rootfs"), std::string::npos);
}

}  // namespace
}  // namespace sluice::vmm
