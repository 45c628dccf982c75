#include "executor/vmm/executable.h"

#include <algorithm>

#include <fmt/format.h>

#include "executor/vmm/limits.h"

namespace sluice::vmm {
namespace {

constexpr const char* kDefaultPath = "PATH=/usr/local/bin:/usr/bin:/bin";
constexpr size_t kScriptLineMax = 255;  // Linux's BINPRM_BUF_SIZE, less its end
constexpr int kScriptsMax = 4;          // a script's interpreter may be a script

struct FoundFile {
  std::string path;  // links followed
  std::span<const uint8_t> bytes;
};

Expected<FoundFile> find_file(const std::shared_ptr<const RootFs>& rootfs, const std::string& path,
                              const char* what) {
  Tmpfs fs(0, rootfs);
  Tmpfs::Found found;
  int64_t error = fs.find(Tmpfs::kRoot, path, true, found);
  if (error < 0 || found.node == 0) {
    return fail(Code::kInvalid,
                fmt::format("the root file system has no '{}', which is {}", path, what));
  }
  if (fs.node(found.node).kind != Tmpfs::Kind::kFile) {
    return fail(Code::kInvalid, fmt::format("'{}' in the root file system, which is {}, is not a "
                                            "file",
                                            path, what));
  }
  std::string folder = fs.path_of(found.parent);
  FoundFile file;
  file.path = (folder == "/" ? "" : folder) + "/" + found.name;
  file.bytes = fs.read(found.node, 0, UINT64_MAX);
  return file;
}

// "#! INTERPRETER [ARGUMENT]": the rest of the line is one argument.
std::vector<std::string> script_words(std::span<const uint8_t> file) {
  std::string line(reinterpret_cast<const char*>(file.data()),
                   std::min<size_t>(file.size(), kScriptLineMax));
  line = line.substr(2, line.find('\n') - 2);
  const char* kBlanks = " \t\r";
  auto trim = [&](std::string& text) {
    text.erase(0, std::min(text.find_first_not_of(kBlanks), text.size()));
    text.erase(text.find_last_not_of(kBlanks) + 1);
  };
  trim(line);
  std::vector<std::string> words;
  size_t end = std::min(line.find_first_of(kBlanks), line.size());
  words.push_back(line.substr(0, end));
  std::string rest = line.substr(end);
  trim(rest);
  if (!rest.empty()) words.push_back(rest);
  return words;
}

bool is_script(std::span<const uint8_t> file) {
  return file.size() > 2 && file[0] == '#' && file[1] == '!';
}

Expected<void> find_linker(Executable& e) {
  if (e.image.interpreter.empty()) return {};
  if (!e.rootfs) {
    return fail(Code::kInvalid,
                fmt::format("the image is dynamically linked (it wants {}); link it with -static, "
                            "or deploy it with a root file system (--rootfs)",
                            e.image.interpreter));
  }
  auto file = find_file(e.rootfs, e.image.interpreter, "the image's dynamic linker");
  if (!file) return std::unexpected(file.error());
  auto linker = parse_elf(file->bytes);
  if (!linker) return std::unexpected(linker.error());
  if (!linker->position_independent || !linker->interpreter.empty()) {
    return fail(Code::kInvalid, fmt::format("'{}' in the root file system is not a dynamic linker",
                                            e.image.interpreter));
  }
  e.linker_file = file->bytes;
  e.linker = std::move(*linker);
  return {};
}

}  // namespace

Expected<Executable> find_executable(const Program& program) {
  Executable e;
  e.path = program.name;
  e.args = program.args;
  e.env = program.env;
  e.file = program.image;
  if (!program.rootfs.empty()) {
    auto rootfs = RootFs::from_tar(program.rootfs);
    if (!rootfs) return std::unexpected(rootfs.error());
    e.rootfs = std::move(*rootfs);
    bool has_path = std::ranges::any_of(
        e.env, [](const std::string& entry) { return entry.starts_with("PATH="); });
    if (!has_path) e.env.push_back(kDefaultPath);
  }
  if (e.file.empty() && e.rootfs) {
    auto file = find_file(e.rootfs, program.image_path, "the function's program");
    if (!file) return std::unexpected(file.error());
    e.path = file->path;
    e.file = file->bytes;
  }
  std::string script = program.image_path.empty() ? e.path : program.image_path;
  for (int i = 0; e.rootfs && is_script(e.file); i++) {
    if (i == kScriptsMax) {
      return fail(Code::kInvalid, "the image is a script whose interpreter is a script, and so on");
    }
    std::vector<std::string> words = script_words(e.file);
    auto file = find_file(e.rootfs, words[0], "the script's interpreter");
    if (!file) return std::unexpected(file.error());
    if (e.args.empty()) e.args.emplace_back();
    e.args[0] = script;
    e.args.insert(e.args.begin(), words.begin(), words.end());
    script = words[0];
    e.path = file->path;
    e.file = file->bytes;
  }
  auto image = parse_elf(e.file);
  if (!image) return std::unexpected(image.error());
  e.image = std::move(*image);
  if (auto found = find_linker(e); !found) return std::unexpected(found.error());
  return e;
}

}  // namespace sluice::vmm
