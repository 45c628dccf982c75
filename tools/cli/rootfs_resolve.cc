// resolve_packages() of rootfs_packages.h.
#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "tools/cli/child.h"
#include "tools/cli/debian.h"
#include "tools/cli/limits.h"
#include "tools/cli/rootfs_packages.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Known {
  std::string query_name;
  std::string version;
  std::vector<Alternatives> depends;
  std::vector<Alternatives> provides;
};

struct Group {
  Alternatives alternatives;
  std::string from;     // the package that depends on them; "" for the user
  bool check_versions;  // dpkg has not: the one that depends on them is not installed
};

// dpkg's tools are part of every Debian; elsewhere there is nothing to take packages from.
Expected<std::string> dpkg_output(const std::vector<std::string>& command) {
  auto output = output_of(command);
  if (!output && output.error().code == Code::kUnavailable) {
    return fail(Code::kUnavailable, output.error().message +
                                        "; --from-packages works on Debian and what is made from "
                                        "it. Elsewhere give a root file system with --rootfs");
  }
  return output;
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  while (true) {
    const size_t tab = line.find('\t');
    fields.push_back(line.substr(0, tab));
    if (tab == std::string_view::npos) return fields;
    line.remove_prefix(tab + 1);
  }
}

class Resolver {
 public:
  explicit Resolver(const Note& note) : note_(note) {}

  Expected<PackageSet> run(const std::vector<std::string>& wanted) {
    set_.wanted = wanted;
    wanted_.insert(wanted.begin(), wanted.end());
    if (const auto read = read_installed(); !read) return std::unexpected(read.error());
    for (const std::string& name : wanted) waiting_.push_back({{{name, "", ""}}, "", false});
    while (!waiting_.empty()) {
      while (!waiting_.empty()) {
        const Group group = std::move(waiting_.front());
        waiting_.pop_front();
        if (const auto done = take(group); !done) return std::unexpected(done.error());
      }
      if (const auto done = look_up_missing(); !done) return std::unexpected(done.error());
    }
    return std::move(set_);
  }

 private:
  Expected<> read_installed() {
    const auto architecture = dpkg_output({"dpkg", "--print-architecture"});
    if (!architecture) return std::unexpected(architecture.error());
    if (!architecture->starts_with("amd64")) {
      return fail(
          Code::kUnavailable,
          fmt::format("functions run on amd64, and this machine's packages are for {}; make "
                      "the root file system on an amd64 machine ('sluice rootfs make') and "
                      "give it with --rootfs",
                      architecture->substr(0, architecture->find('\n'))));
    }
    const auto list = dpkg_output(
        {"dpkg-query", "--show", "--showformat",
         "${Package}\\t${binary:Package}\\t${Architecture}\\t${db:Status-Status}\\t${Version}\\t"
         "${Pre-Depends}, ${Depends}\\t${Provides}\\n"});
    if (!list) return std::unexpected(list.error());
    for (std::string_view rest = *list; !rest.empty();) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      const auto fields = fields_of(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (fields.size() != 7 || fields[3] != "installed") continue;
      if (fields[2] != "amd64" && fields[2] != "all") continue;
      const std::string name(fields[0]);
      installed_[name] = {std::string(fields[1]), std::string(fields[4]),
                          parse_dependencies(fields[5]), parse_dependencies(fields[6])};
      for (const Alternatives& provided : installed_[name].provides) {
        providers_[provided[0].name].push_back(name);
      }
    }
    return {};
  }

  bool is_new_enough(const std::string& name, const Dependency& dependency) {
    if (dependency.relation.empty()) return true;
    const auto compared = run_child({"dpkg", "--compare-versions", installed_.at(name).version,
                                     dependency.relation, dependency.version});
    return compared && compared->status == 0;
  }

  Expected<> choose(const std::string& name, bool installed, const Known& package) {
    if (!chosen_.insert(name).second) return {};
    if (chosen_.size() > kPackagesMax) {
      return fail(Code::kLimit,
                  fmt::format("these packages depend on more than {} others", kPackagesMax));
    }
    for (const Alternatives& provided : package.provides) provided_.insert(provided[0].name);
    if (installed) {
      set_.installed[name] = package.query_name;
    } else {
      set_.fetched.push_back(name);
    }
    for (const Alternatives& group : package.depends) waiting_.push_back({group, name, !installed});
    return {};
  }

  // What is installed serves at once; the rest is looked up later, all of it together.
  Expected<> take(const Group& group) {
    for (const Dependency& dependency : group.alternatives) {
      if (chosen_.contains(dependency.name)) return {};
      if (!group.from.empty() && provided_.contains(dependency.name)) return {};
    }
    const std::string& first = group.alternatives[0].name;
    if (const std::string_view why = why_needless_package(first);
        !why.empty() && !wanted_.contains(first)) {
      set_.left_out.emplace(first, why);
      return {};
    }
    for (const Dependency& dependency : group.alternatives) {
      const auto found = installed_.find(dependency.name);
      if (found == installed_.end()) continue;
      if (group.check_versions && !is_new_enough(dependency.name, dependency)) continue;
      return choose(dependency.name, true, found->second);
    }
    if (!group.from.empty()) {
      for (const Dependency& dependency : group.alternatives) {
        const auto found = providers_.find(dependency.name);
        if (found == providers_.end()) continue;
        const std::string& name = found->second[0];
        return choose(name, true, installed_.at(name));
      }
    }
    missing_.push_back(group);
    return {};
  }

  Expected<> look_up_missing() {
    if (missing_.empty()) return {};
    note_("looking up packages");
    std::vector<std::string> command = {"apt-cache", "show", "--no-all-versions"};
    for (const Group& group : missing_) {
      for (const Dependency& dependency : group.alternatives) command.push_back(dependency.name);
    }
    // Its status is 100 where it knows one of them not; what it knows is printed all the same.
    const auto shown = run_child(command);
    if (!shown) return std::unexpected(shown.error());
    std::map<std::string, Known> candidates;
    for (auto& paragraph : parse_paragraphs(shown->output)) {
      candidates[paragraph["Package"]] = {
          "", paragraph["Version"],
          parse_dependencies(paragraph["Pre-Depends"] + ", " + paragraph["Depends"]),
          parse_dependencies(paragraph["Provides"])};
    }
    for (const Group& group : std::exchange(missing_, {})) {
      if (const auto done = take_candidate(group, candidates); !done) return done;
    }
    return {};
  }

  Expected<> take_candidate(const Group& group, const std::map<std::string, Known>& candidates) {
    for (const Dependency& dependency : group.alternatives) {
      if (chosen_.contains(dependency.name)) return {};
      const auto found = candidates.find(dependency.name);
      if (found != candidates.end()) return choose(dependency.name, false, found->second);
    }
    const std::string& name = group.alternatives[0].name;
    // A virtual package, which another one provides. One that a user names should be said.
    if (!group.from.empty() && virtual_.insert(name).second) {
      const std::string provider = provider_of(name);
      if (!provider.empty()) {
        waiting_.push_back({{{provider, "", ""}}, group.from, true});
        return {};
      }
    }
    return fail(
        Code::kNotFound,
        fmt::format("there is no package '{}'{}; is the name right? 'apt-get update' brings "
                    "this machine's lists up to date",
                    name, group.from.empty() ? "" : ", which '" + group.from + "' needs"));
  }

  // The first real package that apt knows to provide `name`; "" where there is none.
  static std::string provider_of(const std::string& name) {
    const auto shown = run_child({"apt-cache", "showpkg", name});
    if (!shown) return "";
    constexpr std::string_view kTitle = "Reverse Provides:";
    const size_t title = shown->output.find(kTitle);
    if (title == std::string::npos) return "";
    const size_t begin = shown->output.find_first_not_of(" \n", title + kTitle.size());
    if (begin == std::string::npos) return "";
    const std::string provider =
        shown->output.substr(begin, shown->output.find_first_of(" \n", begin) - begin);
    return is_package_name(provider) && provider != name ? provider : "";
  }

  const Note& note_;
  PackageSet set_;
  std::set<std::string> wanted_;
  std::set<std::string> chosen_;
  std::set<std::string> provided_;  // by those that are chosen
  std::set<std::string> virtual_;   // names that a provider was looked up for
  std::map<std::string, Known> installed_;
  std::map<std::string, std::vector<std::string>> providers_;
  std::deque<Group> waiting_;
  std::vector<Group> missing_;
};

}  // namespace

bool PackageSet::contains(const std::string& name) const {
  return installed.contains(name) ||
         std::find(fetched.begin(), fetched.end(), name) != fetched.end();
}

Expected<PackageSet> resolve_packages(const std::vector<std::string>& wanted, const Note& note) {
  for (const std::string& name : wanted) {
    if (is_package_name(name)) continue;
    return fail(Code::kInvalid,
                fmt::format("'{}' is not the name of a Debian package", printable(name)));
  }
  return Resolver(note).run(wanted);
}

}  // namespace sluice::cli
