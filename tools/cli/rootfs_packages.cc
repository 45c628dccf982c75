#include "tools/cli/rootfs_packages.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "tools/cli/child.h"
#include "tools/cli/debian.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;

// Gone with what is in it when it goes out of scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::error_code error;
    std::string pattern = fs::temp_directory_path(error).string() + "/sluice-packages-XXXXXX";
    if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }  // "" where it could not be made

 private:
  std::string path_;
};

bool is_program(std::string_view path) {
  for (const std::string_view directory :
       {"usr/bin/", "bin/", "usr/sbin/", "sbin/", "usr/games/"}) {
    if (path.starts_with(directory)) {
      return path.find('/', directory.size()) == std::string_view::npos;
    }
  }
  return false;
}

class PackageReader {
 public:
  PackageReader(RootfsTree& tree, const PackageSet& packages, const Note& note)
      : tree_(tree), packages_(packages), note_(note) {}

  Expected<PackageContent> run() {
    if (const auto made = add_layout(); !made) return std::unexpected(made.error());
    for (const auto step : {&PackageReader::add_c_locale, &PackageReader::add_installed,
                            &PackageReader::read_scripts, &PackageReader::add_fetched,
                            &PackageReader::add_alternatives, &PackageReader::add_accounts}) {
      if (const auto done = (this->*step)(); !done) return std::unexpected(done.error());
    }
    if (const std::string left_out = left_out_.sentence(); !left_out.empty()) {
      content_.warnings.push_back(left_out);
    }
    if (unreadable_ > 0) {
      content_.warnings.push_back(fmt::format("left out {} that this user can not read, such as {}",
                                              counted(unreadable_, "file"), unreadable_example_));
    }
    return std::move(content_);
  }

 private:
  // Packages name /bin and /lib or /usr/bin and /usr/lib as they like; on Debian these are one.
  Expected<> add_layout() {
    for (const std::string_view name : {"bin", "lib", "lib64", "sbin"}) {
      if (const auto* there = tree_.find(name); there != nullptr) continue;
      const std::string target = fmt::format("usr/{}", name);
      if (const auto made = tree_.add_directory(target, 0755); !made) return made;
      if (const auto made = tree_.add_symlink(name, target); !made) return made;
    }
    for (const std::string_view name : {"app", "dev", "proc", "root"}) {
      if (const auto made = tree_.add_directory(name, 0755); !made) return made;
    }
    return tree_.add_directory("tmp", 01777);
  }

  Expected<> add_installed() {
    if (packages_.installed.empty()) return {};
    std::vector<std::string> command = {"dpkg-query", "--listfiles"};
    std::vector<std::string> names;
    for (const auto& [name, query_name] : packages_.installed) {
      names.push_back(name);
      command.push_back(query_name);
    }
    const auto lists = output_of(command);
    if (!lists) return std::unexpected(lists.error());
    size_t package = 0;
    for (std::string_view rest = *lists; !rest.empty();) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      const std::string path(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (path.empty()) {  // the next package's list
        package = std::min(package + 1, names.size() - 1);
        note_("reading package " + names[package]);
        continue;
      }
      // Other lines tell of diversions, whose files are where their own lines say.
      if (!path.starts_with('/') || path == "/." || is_needless_path(path)) continue;
      if (const auto added = add_system_path(path); !added) return added;
      remember_program(names[package], path.substr(1));
    }
    return {};
  }

  Expected<> add_system_path(const std::string& path) {
    const auto added = read_one(tree_, path, path, first_names_, left_out_);
    if (added || added.error().code == Code::kNotFound) return {};  // its administrator's choice
    if (added.error().code != Code::kIo) return std::unexpected(added.error());
    if (unreadable_++ == 0) unreadable_example_ = path;
    return {};
  }

  // Where dpkg keeps the scripts of what is installed, one file a package.
  Expected<> read_scripts() {
    const auto one = output_of({"dpkg-query", "--control-path", "dpkg", "postinst"});
    if (!one) return std::unexpected(one.error());
    const fs::path folder = fs::path(*one).parent_path();
    for (const auto& [name, query_name] : packages_.installed) {
      const auto script =
          read_input((folder / (query_name + ".postinst")).string(), kInputBytesMax);
      if (script) remember_alternatives(*script);
    }
    return {};
  }

  // Essential like the C library itself, so no package depends on it.
  Expected<> add_c_locale() {
    const fs::path locale = "/usr/lib/locale/C.utf8";
    std::error_code error;
    for (fs::recursive_directory_iterator entry(locale, error), end; !error && entry != end;
         entry.increment(error)) {
      if (const auto added = add_system_path(entry->path().string()); !added) return added;
    }
    return {};
  }

  Expected<> add_fetched() {
    if (packages_.fetched.empty()) return {};
    const SignalsLater until_the_folder_is_gone;
    const TemporaryFolder folder;
    if (folder.path().empty()) {
      return fail(Code::kIo, fmt::format("cannot make a temporary folder: {}; TMPDIR says where",
                                         std::strerror(errno)));
    }
    note_("fetching " + counted(packages_.fetched.size(), "package"));
    std::vector<std::string> command = {"apt-get", "download", "--quiet", "--quiet"};
    command.insert(command.end(), packages_.fetched.begin(), packages_.fetched.end());
    const auto fetched = output_of(command, folder.path());
    if (!fetched) {
      return fail(fetched.error().code,
                  fmt::format("cannot fetch packages: {}; 'apt-get update' brings this machine's "
                              "lists up to date",
                              fetched.error().message));
    }
    std::vector<std::string> archives;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder.path(), error)) {
      if (entry.path().extension() == ".deb") archives.push_back(entry.path().string());
    }
    std::sort(archives.begin(), archives.end());
    if (archives.size() != packages_.fetched.size()) {
      return fail(Code::kIo, "apt-get did not fetch all packages that it was asked for");
    }
    for (const std::string& archive : archives) {
      if (SignalsLater::came()) return fail(Code::kUnavailable, "interrupted");
      if (const auto added = add_archive(archive); !added) return added;
    }
    return {};
  }

  Expected<> add_archive(const std::string& archive) {
    const std::string file = fs::path(archive).filename().string();
    const std::string name = file.substr(0, file.find('_'));
    note_("reading package " + name);
    const auto tar = output_of({"dpkg-deb", "--fsys-tarfile", archive});
    if (!tar) return std::unexpected(tar.error());
    const PathFilter filter = [&](std::string_view path) {
      if (is_needless_path(path)) return false;
      while (path.starts_with("./")) path.remove_prefix(2);
      remember_program(name, std::string(path));
      return true;
    };
    const auto read = read_tar(tree_, *tar, file, filter, [](uint64_t) {});
    if (!read) return std::unexpected(read.error());
    left_out_.devices += read->devices;
    left_out_.set_ids += read->set_ids;
    const auto script = output_of({"dpkg-deb", "--info", archive, "postinst"});
    if (script) remember_alternatives(*script);
    return {};
  }

  void remember_program(const std::string& package, const std::string& path) {
    if (is_program(path)) content_.programs[package].push_back(path);
  }

  void remember_alternatives(std::string_view script) {
    for (DebianAlternative& alternative : parse_alternatives(script)) {
      DebianAlternative& best = alternatives_[alternative.name];
      if (best.path.empty() || best.priority < alternative.priority) best = std::move(alternative);
    }
  }

  Expected<> add_link(const DebianAlternative& alternative) {
    if (tree_.find(alternative.path) == nullptr || tree_.find(alternative.link) != nullptr) {
      return {};
    }
    const std::string middle = "/etc/alternatives/" + alternative.name;
    if (const auto made = tree_.add_symlink(middle, alternative.path); !made) return made;
    return tree_.add_symlink(alternative.link, middle);
  }

  Expected<> add_alternatives() {
    for (const auto& [name, alternative] : alternatives_) {
      if (const auto done = add_link(alternative); !done) return done;
      for (const DebianAlternative& slave : alternative.slaves) {
        if (const auto done = add_link(slave); !done) return done;
      }
    }
    return {};
  }

  // Runtimes look up who they are.
  Expected<> add_accounts() {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kFiles = {{
        {"etc/passwd",
         "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"},
        {"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
        {"etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"},
    }};
    for (const auto& [path, content] : kFiles) {
      if (tree_.find(path) != nullptr) continue;
      if (const auto made = tree_.add_file(path, 0644, std::string(content)); !made) return made;
    }
    return {};
  }

  RootfsTree& tree_;
  const PackageSet& packages_;
  const Note& note_;
  PackageContent content_;
  FirstNames first_names_;
  LeftOut left_out_;
  std::map<std::string, DebianAlternative> alternatives_;
  uint64_t unreadable_ = 0;
  std::string unreadable_example_;
};

bool is_executable(const RootfsTree& tree, std::string_view path) {
  const RootfsTree::Node* node = tree.find(path);
  return node != nullptr && node->kind == RootfsTree::Kind::kFile && (node->mode & 0111) != 0;
}

}  // namespace

Expected<PackageContent> add_packages(RootfsTree& tree, const PackageSet& packages,
                                      const Note& note) {
  return PackageReader(tree, packages, note).run();
}

Expected<std::string> obvious_program(const RootfsTree& tree,
                                      const std::vector<std::string>& wanted,
                                      const Programs& programs) {
  std::string candidates;
  for (const std::string& name : wanted) {
    for (const std::string_view directory : {"usr/bin/", "usr/sbin/", "usr/games/"}) {
      const std::string path = std::string(directory) + name;
      if (is_executable(tree, path)) return "/" + path;
    }
    const auto found = programs.find(name);
    if (found == programs.end()) continue;
    if (found->second.size() == 1 && is_executable(tree, found->second[0])) {
      return "/" + found->second[0];
    }
    for (const std::string& path : found->second) {
      candidates += (candidates.empty() ? "/" : ", /") + path;
    }
  }
  return fail(Code::kInvalid,
              fmt::format("which program is to run? Give its path in the root file system with "
                          "--image{}{}",
                          candidates.empty() ? "" : "; these packages have ", candidates));
}

}  // namespace sluice::cli
