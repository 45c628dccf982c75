#include "tools/cli/debian.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace sluice::cli {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  while (!(text = trimmed(text)).empty()) {
    const size_t end = std::min(text.find_first_of(kSpace), text.size());
    list.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return list;
}

Dependency parse_dependency(std::string_view text) {
  Dependency dependency;
  const size_t end = std::min(text.find_first_of(" (["), text.size());
  const std::string_view name = text.substr(0, end);
  dependency.name = name.substr(0, name.find(':'));  // python3:any
  const size_t open = text.find('(', end);
  const size_t close = text.find(')', end);
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return dependency;
  }
  const std::string_view version = trimmed(text.substr(open + 1, close - open - 1));
  const size_t digits = std::min(version.find_first_not_of("<>="), version.size());
  dependency.relation = version.substr(0, digits);
  dependency.version = trimmed(version.substr(digits));
  return dependency;
}

// The words of a script's lines, continuation lines joined, quotes taken off.
std::vector<std::vector<std::string>> command_lines(std::string_view script) {
  std::vector<std::vector<std::string>> lines;
  std::string line;
  for (const std::string_view part : split(script, '\n')) {
    line += part;
    if (line.ends_with('\\')) {
      line.back() = ' ';
      continue;
    }
    std::erase_if(line, [](char c) { return c == '"' || c == '\''; });
    lines.push_back(words(line));
    line.clear();
  }
  return lines;
}

// The `count` words after the one at `at`, if they can be taken as they are.
bool plain_words(const std::vector<std::string>& line, size_t at, size_t count) {
  if (at + count >= line.size()) return false;
  const auto begin = line.begin() + static_cast<int64_t>(at) + 1;
  return std::all_of(begin, begin + static_cast<int64_t>(count), [](const std::string& word) {
    return word.find_first_of("$`;&|<>") == std::string::npos;
  });
}

bool is_below(std::string_view path, std::string_view directory) {
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace

bool is_package_name(std::string_view name) {
  const auto low = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return name.size() >= 2 && low(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
           return low(c) || c == '+' || c == '-' || c == '.';
         });
}

std::vector<Alternatives> parse_dependencies(std::string_view field) {
  std::vector<Alternatives> groups;
  for (const std::string_view group : split(field, ',')) {
    Alternatives alternatives;
    for (const std::string_view text : split(group, '|')) {
      Dependency dependency = parse_dependency(text);
      if (is_package_name(dependency.name)) alternatives.push_back(std::move(dependency));
    }
    if (!alternatives.empty()) groups.push_back(std::move(alternatives));
  }
  return groups;
}

std::vector<std::map<std::string, std::string>> parse_paragraphs(std::string_view text) {
  std::vector<std::map<std::string, std::string>> paragraphs;
  std::string* value = nullptr;
  bool between = true;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (trimmed(line).empty()) {
      between = true;
      value = nullptr;
      continue;
    }
    if (line[0] == ' ' || line[0] == '\t') {
      if (value != nullptr) *value += " " + std::string(trimmed(line));
      continue;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    if (std::exchange(between, false)) paragraphs.emplace_back();
    value = &paragraphs.back()[std::string(line.substr(0, colon))];
    *value = trimmed(line.substr(colon + 1));
  }
  return paragraphs;
}

std::vector<DebianAlternative> parse_alternatives(std::string_view script) {
  std::vector<DebianAlternative> found;
  for (const std::vector<std::string>& line : command_lines(script)) {
    if (std::find(line.begin(), line.end(), "update-alternatives") == line.end()) continue;
    for (size_t i = 0; i < line.size(); ++i) {
      if (line[i] == "--install" && plain_words(line, i, 4)) {
        const std::string& priority = line[i + 4];
        int value = 0;
        std::from_chars(priority.data(), priority.data() + priority.size(), value);
        found.push_back({line[i + 1], line[i + 2], line[i + 3], value, {}});
      } else if (line[i] == "--slave" && plain_words(line, i, 3) && !found.empty()) {
        found.back().slaves.push_back({line[i + 1], line[i + 2], line[i + 3], 0, {}});
      }
    }
  }
  return found;
}

std::string_view why_needless_package(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kNeedless[] = {
      {"adduser", "makes users while a package is installed"},
      {"cdebconf", "asks questions while a package is installed"},
      {"debconf", "asks questions while a package is installed"},
      {"debconf-2.0", "asks questions while a package is installed"},
      {"dpkg", "installs packages"},
      {"init-system-helpers", "starts services"},
      {"install-info", "keeps the index of Info pages"},
      {"lsb-base", "starts services"},
      {"passwd", "makes users while a package is installed"},
      {"sysvinit-utils", "starts services"},
      {"systemd", "starts services"},
      {"ucf", "asks questions while a package is installed"},
  };
  for (const auto& [needless, why] : kNeedless) {
    if (name == needless) return why;
  }
  return "";
}

bool is_needless_path(std::string_view path) {
  while (path.starts_with("./") || path.starts_with('/')) {
    path.remove_prefix(path.starts_with('/') ? 1 : 2);
  }
  constexpr std::array<std::string_view, 24> kNeedless = {
      "etc/cron.d",
      "etc/cron.daily",
      "etc/init.d",
      "etc/logrotate.d",
      "lib/systemd",
      "usr/lib/systemd",
      "usr/lib/debug",
      "usr/share/applications",
      "usr/share/apport",
      "usr/share/bash-completion",
      "usr/share/binfmts",
      "usr/share/bug",
      "usr/share/common-licenses",
      "usr/share/doc",
      "usr/share/doc-base",
      "usr/share/icons",
      "usr/share/info",
      "usr/share/lintian",
      "usr/share/locale",
      "usr/share/man",
      "usr/share/menu",
      "usr/share/pixmaps",
      "usr/share/zsh/vendor-completions",
      "usr/share/gdb",
  };
  for (const std::string_view directory : kNeedless) {
    if (is_below(path, directory)) return true;
  }
  constexpr std::string_view kLocales = "usr/lib/locale/";
  if (path.starts_with(kLocales)) return !path.substr(kLocales.size()).starts_with("C");
  if (path.ends_with("/__pycache__") || path.find("/__pycache__/") != std::string_view::npos) {
    return true;
  }
  // Perl's own documentation, and the headers to build modules with.
  const bool perl = path.starts_with("usr/share/perl/") ||
                    (path.starts_with("usr/lib/") && path.find("/perl/") != std::string_view::npos);
  if (perl && (path.ends_with(".pod") ||
               (path.find("/CORE/") != std::string_view::npos && path.ends_with(".h")))) {
    return true;
  }
  // The tests of the standard library only: some packages' "tests" are imported by their users.
  constexpr std::string_view kPython = "usr/lib/python3.";
  if (!path.starts_with(kPython)) return false;
  const size_t slash = path.find('/', kPython.size());
  if (slash == std::string_view::npos) return false;
  const std::string_view module = path.substr(slash + 1);
  return is_below(module, "test") || is_below(module, "idlelib/idle_test") ||
         is_below(module, "lib2to3/tests") || is_below(module, "tkinter/test") ||
         is_below(module, "unittest/test") || is_below(module, "ctypes/test") ||
         is_below(module, "distutils/tests");
}

}  // namespace sluice::cli
