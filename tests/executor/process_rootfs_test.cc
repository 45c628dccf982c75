// Dynamic programs in process sandboxes: root file systems, also such as attack.

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/executor/process_harness.h"

namespace sluice::process {
namespace {

// A tar archive, entry by entry.
class Tar {
 public:
  Tar() : archive_(archive_write_new()), room_(64 << 20) {
    archive_write_set_format_pax_restricted(archive_);
    archive_write_open_memory(archive_, room_.data(), room_.size(), &used_);
  }
  Tar& file(const std::string& path, const std::string& text, int mode = 0644) {
    return add(path, AE_IFREG, mode, text, nullptr, nullptr);
  }
  Tar& folder(const std::string& path, int mode = 0755) {
    return add(path, AE_IFDIR, mode, "", nullptr, nullptr);
  }
  Tar& symlink(const std::string& path, const char* to) {
    return add(path, AE_IFLNK, 0777, "", to, nullptr);
  }
  Tar& hardlink(const std::string& path, const char* to) {
    return add(path, AE_IFREG, 0644, "", nullptr, to);
  }
  Tar& device(const std::string& path) { return add(path, AE_IFBLK, 0666, "", nullptr, nullptr); }
  // A file of this machine, with what it links to.
  Tar& copy(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    return file(path.substr(1), text, 0755);
  }
  std::vector<uint8_t> take() {
    archive_write_close(archive_);
    archive_write_free(archive_);
    return {room_.begin(), room_.begin() + static_cast<long>(used_)};
  }

 private:
  Tar& add(const std::string& path, unsigned type, int mode, const std::string& text,
           const char* symlink, const char* hardlink) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, static_cast<mode_t>(mode));
    archive_entry_set_size(entry, static_cast<la_int64_t>(text.size()));
    if (symlink) archive_entry_set_symlink(entry, symlink);
    if (hardlink) archive_entry_set_hardlink(entry, hardlink);
    if (type == AE_IFBLK) archive_entry_set_rdev(entry, 0x800);
    EXPECT_EQ(archive_write_header(archive_, entry), ARCHIVE_OK) << path;
    if (!text.empty()) archive_write_data(archive_, text.data(), text.size());
    archive_entry_free(entry);
    return *this;
  }

  archive* archive_;
  std::vector<uint8_t> room_;
  size_t used_ = 0;
};

// Adds the libraries that ldd names.
void add_libraries(Tar& tar, const std::string& program) {
  FILE* pipe = popen(("ldd " + program).c_str(), "r");
  char line[1024];
  while (fgets(line, sizeof line, pipe)) {
    std::string text = line;
    size_t from = text.find('/');
    if (from != std::string::npos) tar.copy(text.substr(from, text.find(' ', from) - from));
  }
  pclose(pipe);
}

std::vector<uint8_t> attack_rootfs(Tar& tar) {
  auto attack = read_guest("attack");
  return tar.file("bin/attack", std::string(attack.begin(), attack.end()), 0755).take();
}

CallResult call_attack(const std::vector<uint8_t>& rootfs, std::vector<std::string> args) {
  args.insert(args.begin(), "/bin/attack");
  Program program{.name = "attack", .rootfs = rootfs, .image_path = "/bin/attack", .args = args};
  return Loaded(program, {}).call();
}

TEST(Rootfs, DynamicProgramRuns) {
  Tar tar;
  std::string guest = std::string(std::getenv("SLUICE_GUESTS")) + "/empty_dynamic";
  add_libraries(tar, guest);
  auto rootfs = tar.take();
  auto image = read_guest("empty_dynamic");
  Loaded empty({.name = "empty", .image = image, .rootfs = rootfs, .args = {"empty"}}, {});
  EXPECT_TRUE(empty.image().at_first_read());
  for (int i = 0; i < 2; i++) {
    CallResult r = empty.call();
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message << r.log;
  }
}

TEST(Rootfs, PythonFromTheSystemsFiles) {
  std::string archive = testing::TempDir() + "sluice-python-" + std::to_string(getpid()) + ".tar";
  std::string libraries = "usr/lib/python3 usr/lib/python3.11 usr/bin/python3 usr/bin/python3.11";
  std::string command =
      "cd / && { ldd usr/bin/python3.11 usr/lib/python3.11/lib-dynload/*.so | grep -o '/[^ "
      "]*\\.so[^ "
      ":]*' | grep -v python3.11 | sort -u; } | tar -chf " +
      archive + " --exclude=__pycache__ --exclude=test -T - " + libraries + " 2>/dev/null";
  (void)std::system(command.c_str());
  auto rootfs = read_guest(archive);
  std::remove(archive.c_str());
  ASSERT_GT(rootfs.size(), 1u << 20) << "needs Debian's python3";
  Program program{
      .name = "python3",
      .rootfs = rootfs,
      .image_path = "/usr/bin/python3",
      .args = {"/usr/bin/python3", "-c",
               "import json, sys, os, threading\n"
               "seen = []\n"
               "d = json.load(sys.stdin)\n"
               "t = threading.Thread(target=lambda: seen.append(d['n'] * 2)); t.start(); t.join()\n"
               "open('/tmp/x', 'x').write('only mine')\n"
               "print(json.dumps({'n': seen[0], 'args': sys.argv, 'tmp': os.listdir('/tmp')}))"}};
  Loaded python(program, {.memory_bytes = 256 << 20});
  EXPECT_TRUE(python.image().at_first_read()) << python.image().warning();
  for (int i = 1; i < 4; i++) {
    CallResult r = python.call("{\"n\": " + std::to_string(i) + "}");
    EXPECT_EQ(r.output,
              "{\"n\": " + std::to_string(2 * i) + ", \"args\": [\"-c\"], \"tmp\": [\"x\"]}\n")
        << r.ending.message << r.log;
  }
}

TEST(Rootfs, IsReadOnlyAndTmpIsPrivate) {
  Tar tar;
  auto rootfs = attack_rootfs(tar.file("etc/motd", "hello").folder("tmp").file("tmp/hidden", "x"));
  for (const char* path : {"/etc/motd", "/x", "/bin/attack", "/dev/x", "/proc/x"}) {
    EXPECT_EQ(call_attack(rootfs, {"write", path}).output, "held\n") << path;
  }
  EXPECT_EQ(call_attack(rootfs, {"open", "/etc/motd"}).output, "OPEN\n");
  EXPECT_EQ(call_attack(rootfs, {"list", "/tmp"}).output, "\n");
  EXPECT_EQ(call_attack(rootfs, {"write", "/tmp/x"}).output, "OPEN\n");
  EXPECT_EQ(call_attack(rootfs, {"fill"}).output, "16777216 bytes\n");
}

// Where an archive tries to write, nothing is found; the sandbox or the loading says why.
TEST(Rootfs, HostileArchivesCanNotLeaveTheirFolder) {
  auto refused = [](Tar& tar) {
    auto rootfs = attack_rootfs(tar);
    auto image = backend().load(
        {.name = "attack", .rootfs = rootfs, .image_path = "/bin/attack", .args = {"/bin/attack"}},
        {});
    EXPECT_FALSE(image);
    if (image) return std::string();
    EXPECT_EQ(image.error().code, Code::kInvalid) << image.error().message;
    return image.error().message;
  };
  std::string mark = "/tmp/sluice-escaped-" + std::to_string(getpid());
  Tar dotdot, through_link, link_out, tmp_link;
  EXPECT_NE(refused(dotdot.file("../.." + mark, "x")), "");
  EXPECT_NE(refused(through_link.symlink("out", "/tmp").file("out/sluice-escaped", "x")), "");
  EXPECT_NE(refused(link_out.hardlink("etc/shadow", "../../etc/shadow")), "");
  EXPECT_NE(refused(tmp_link.symlink("tmp", "/etc")).find("/tmp"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(mark));

  Tar others;
  auto rootfs = attack_rootfs(others.file(mark, "x")
                                  .symlink("passwd", "/../../../etc/passwd")
                                  .device("sda")
                                  .file("dev/null", "not the device")
                                  .file("dev/extra", "x")
                                  .symlink("proc", "/dev")
                                  .file("su", "x", 04777)
                                  .symlink("loop", "loop"));
  EXPECT_FALSE(std::filesystem::exists(mark));
  for (const char* path : {"/passwd", "/sda", "/dev/extra", "/loop"}) {
    EXPECT_EQ(call_attack(rootfs, {"open", path}).output, "held\n") << path;
  }
  EXPECT_EQ(call_attack(rootfs, {"list", "/dev"}).output,
            Loaded("attack", {"list", "/dev"}).call().output);
}

TEST(Rootfs, BrokenArchivesAndPathsAreRefused) {
  auto load = [](const std::vector<uint8_t>& rootfs, const std::string& path) {
    return backend().load({.name = "x", .rootfs = rootfs, .image_path = path, .args = {"x"}}, {});
  };
  std::string noise(100'000, 0);
  for (size_t i = 0; i < noise.size(); i++) noise[i] = static_cast<char>(i * i + 7);
  auto image = load({noise.begin(), noise.end()}, "/bin/x");
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code, Code::kInvalid) << image.error().message;
  Tar tar;
  auto rootfs = tar.folder("bin").file("bin/text", "hello", 0755).take();
  for (const char* path : {"/bin/x", "/bin", "/bin/text", "/dev/null", "/../../bin/ls"}) {
    image = load(rootfs, path);
    ASSERT_FALSE(image) << path;
    EXPECT_EQ(image.error().code, Code::kInvalid) << path << ": " << image.error().message;
  }
  rootfs.resize(700);
  EXPECT_FALSE(load(rootfs, "/bin/text"));
}

}  // namespace
}  // namespace sluice::process
