// RootfsTree::to_tar(): POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block".
#include <array>
#include <cstring>
#include <map>

#include <fmt/format.h>

#include "tools/cli/rootfs_tree.h"

namespace sluice::cli {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kNameMax = 100;
constexpr size_t kPrefixMax = 155;

struct Header {
  char name[kNameMax];
  char mode[8];
  char uid[8];
  char gid[8];
  char size[12];
  char mtime[12];
  char checksum[8];
  char type;
  char link[kNameMax];
  char magic[6];
  char version[2];
  char user[32];
  char group[32];
  char device_major[8];
  char device_minor[8];
  char prefix[kPrefixMax];
  char padding[12];
};
static_assert(sizeof(Header) == kBlock);

template <size_t N>
void set_octal(char (&field)[N], uint64_t value) {
  const std::string digits = fmt::format("{:0{}o}", value, N - 1);
  std::memcpy(field, digits.data(), N - 1);
}

template <size_t N>
void set_text(char (&field)[N], std::string_view text) {
  std::memcpy(field, text.data(), std::min(N, text.size()));
}

// Splits a long path at a slash over the two fields; false where it does not fit.
bool set_path(Header& header, std::string_view path) {
  if (path.size() <= kNameMax) {
    set_text(header.name, path);
    return true;
  }
  const size_t slash = path.find('/', path.size() - kNameMax - 1);
  if (slash == std::string_view::npos || slash == 0 || slash > kPrefixMax ||
      slash + 1 == path.size()) {
    return false;
  }
  set_text(header.prefix, path.substr(0, slash));
  set_text(header.name, path.substr(slash + 1));
  return true;
}

void append_padded(std::string& tar, std::string_view bytes) {
  tar += bytes;
  tar.append((kBlock - bytes.size() % kBlock) % kBlock, '\0');
}

void append_header(std::string& tar, Header header, char type, uint32_t mode, uint64_t size) {
  header.type = type;
  set_octal(header.mode, mode);
  set_octal(header.uid, 0);
  set_octal(header.gid, 0);
  set_octal(header.size, size);
  set_octal(header.mtime, 0);
  std::memcpy(header.magic, "ustar", sizeof header.magic);
  std::memcpy(header.version, "00", sizeof header.version);
  set_octal(header.device_major, 0);
  set_octal(header.device_minor, 0);
  std::memset(header.checksum, ' ', sizeof header.checksum);
  std::array<unsigned char, kBlock> bytes;
  std::memcpy(bytes.data(), &header, kBlock);
  uint64_t sum = 0;
  for (const unsigned char byte : bytes) sum += byte;
  const std::string digits = fmt::format("{:06o}", sum);
  std::memcpy(header.checksum, digits.data(), 6);
  header.checksum[6] = '\0';
  tar.append(reinterpret_cast<const char*>(&header), kBlock);
}

// "LENGTH KEY=VALUE\n", where LENGTH counts itself too.
std::string pax_record(std::string_view key, std::string_view value) {
  const size_t rest = key.size() + value.size() + 3;  // ' ', '=', '\n'
  size_t length = rest + 1;
  while (rest + fmt::format("{}", length).size() != length) {
    length = rest + fmt::format("{}", length).size();
  }
  return fmt::format("{} {}={}\n", length, key, value);
}

void append_entry(std::string& tar, const std::string& path, char type, uint32_t mode,
                  std::string_view link, std::string_view content) {
  Header header{};
  std::string pax;
  // As tar writes it: what knows no type can still tell a directory.
  const std::string name = type == '5' ? path + "/" : path;
  if (!set_path(header, name)) {
    pax += pax_record("path", name);
    set_text(header.name, name);
  }
  if (link.size() > kNameMax) pax += pax_record("linkpath", link);
  set_text(header.link, link);
  if (!pax.empty()) {
    Header extended{};
    set_text(extended.name, "PaxHeader");
    append_header(tar, extended, 'x', 0644, pax.size());
    append_padded(tar, pax);
  }
  append_header(tar, header, type, mode, content.size());
  append_padded(tar, content);
}

}  // namespace

std::string RootfsTree::to_tar() const {
  std::string tar;
  tar.reserve(bytes_ + (nodes_.size() * 2 + 2) * kBlock);
  std::map<const Node*, const std::string*> first_names;
  for (const auto& [path, node] : nodes_) {
    if (node->kind == Kind::kDirectory) {
      append_entry(tar, path, '5', node->mode, "", "");
      continue;
    }
    const auto [first, is_first] = first_names.emplace(node.get(), &path);
    if (!is_first) {
      append_entry(tar, path, '1', node->mode, *first->second, "");
    } else if (node->kind == Kind::kSymlink) {
      append_entry(tar, path, '2', node->mode, node->content, "");
    } else {
      append_entry(tar, path, '0', node->mode, "", node->content);
    }
  }
  tar.append(2 * kBlock, '\0');
  return tar;
}

}  // namespace sluice::cli
