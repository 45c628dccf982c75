#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// What Debian's package tools print, as values; and which of it a function has no use for. Pure
// functions; what is malformed is passed over.
namespace sluice::cli {

// One alternative of a dependency: "libc6 (>= 2.36)".
struct Dependency {
  std::string name;
  std::string relation;  // "<<", "<=", "=", ">=", ">>"; "" where any version will do
  std::string version;
};
using Alternatives = std::vector<Dependency>;  // "a | b": any of them

// Debian Policy 5.6.7, and nothing that a program could take for an option.
bool is_package_name(std::string_view name);

// Debian Policy 7.1: a Depends or Provides field. Architectures in brackets are passed over.
std::vector<Alternatives> parse_dependencies(std::string_view field);

// Paragraphs of "Name: value" (Debian Policy 5.1), continuation lines joined by a space.
std::vector<std::map<std::string, std::string>> parse_paragraphs(std::string_view text);

// One `update-alternatives --install`: `link` leads over /etc/alternatives/`name` to `path`.
struct DebianAlternative {
  std::string link;
  std::string name;
  std::string path;
  int priority = 0;
  std::vector<DebianAlternative> slaves;
};
// Those in a postinst script that are written out; what has a shell's variables in it is passed
// over.
std::vector<DebianAlternative> parse_alternatives(std::string_view script);

// Why a package that others depend on is left out: what it does is installing. "" for all others.
std::string_view why_needless_package(std::string_view name);

// True for a path (without the leading '/') that no program reads to do its work: documentation,
// other languages' texts, byte-code that Python writes itself, the standard library's own tests,
// services, and what shells complete.
bool is_needless_path(std::string_view path);

}  // namespace sluice::cli
