#include "executor/vmm/tar.h"

#include <cstring>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "executor/vmm/limits.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kBlockBytes = 512;

// IEEE Std 1003.1, pax, "ustar Interchange Format".
struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8];
  char type;
  char link[100], magic[6], version[2], owner[32], group[32], major[8], minor[8], prefix[155];
  char padding[12];
};
static_assert(sizeof(Header) == kBlockBytes);

template <size_t N>
std::string_view text_of(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

// Octal digits, with spaces or zeros around them, or GNU's base 256.
template <size_t N>
std::optional<uint64_t> number_of(const char (&field)[N]) {
  uint64_t value = 0;
  if (static_cast<uint8_t>(field[0]) == 0x80) {
    for (size_t i = 1; i < N; i++) {
      if (value >> 56 != 0) return std::nullopt;
      value = value << 8 | static_cast<uint8_t>(field[i]);
    }
    return value;
  }
  size_t i = 0;
  while (i < N && field[i] == ' ') i++;
  for (; i < N && field[i] >= '0' && field[i] <= '7'; i++) {
    if (value >> 60 != 0) return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  for (; i < N; i++) {
    if (field[i] != ' ' && field[i] != 0) return std::nullopt;
  }
  return value;
}

bool checksum_fits(const Header& h) {
  auto expected = number_of(h.checksum);
  if (!expected) return false;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&h);
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlockBytes; i++) {
    bool in_checksum = i >= offsetof(Header, checksum) && i < offsetof(Header, type);
    sum += in_checksum ? ' ' : bytes[i];
  }
  return sum == *expected;
}

// What headers before an entry say of it.
struct Override {
  std::optional<std::string> path, link;
  std::optional<uint64_t> size;
};

// Records "LENGTH KEY=VALUE\n"; LENGTH counts all of it.
bool read_pax(std::string_view records, Override& next) {
  while (!records.empty()) {
    size_t space = records.find(' ');
    if (space == 0 || space == std::string_view::npos || space > 10) return false;
    uint64_t length = 0;
    for (char c : records.substr(0, space)) {
      if (c < '0' || c > '9') return false;
      length = length * 10 + static_cast<uint64_t>(c - '0');
    }
    if (length < space + 2 || length > records.size() || records[length - 1] != '\n') return false;
    std::string_view record = records.substr(space + 1, length - space - 2);
    records.remove_prefix(length);
    size_t equals = record.find('=');
    if (equals == std::string_view::npos) return false;
    std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path") next.path = value;
    if (key == "linkpath") next.link = value;
    if (key == "size") {
      uint64_t size = 0;
      if (value.empty() || value.size() > 18) return false;
      for (char c : value) {
        if (c < '0' || c > '9') return false;
        size = size * 10 + static_cast<uint64_t>(c - '0');
      }
      next.size = size;
    }
  }
  return true;
}

std::optional<TarEntry::Kind> kind_of(char type) {
  switch (type) {
    case '0':
    case '\0':
    case '7':
      return TarEntry::Kind::kFile;
    case '1':
      return TarEntry::Kind::kHardLink;
    case '2':
      return TarEntry::Kind::kSymbolicLink;
    case '5':
      return TarEntry::Kind::kDirectory;
    default:
      return std::nullopt;
  }
}

std::string path_of(const Header& h) {
  std::string path;
  if (std::memcmp(h.magic, "ustar", 6) == 0 && h.prefix[0] != 0) {
    path = std::string(text_of(h.prefix)) + "/";
  }
  return path += text_of(h.name);
}

}  // namespace

Expected<void> read_tar(std::span<const uint8_t> archive,
                        const std::function<Expected<void>(const TarEntry&)>& each) {
  Override next;
  for (uint64_t at = 0; at < archive.size();) {
    auto invalid = [at](const char* what) {
      return fail(Code::kInvalid, fmt::format("the root file system is not a tar archive that can "
                                              "be read: {} at byte {}",
                                              what, at));
    };
    if (archive.size() - at < kBlockBytes) return invalid("an incomplete header");
    Header h;
    std::memcpy(&h, archive.data() + at, sizeof h);
    if (h.name[0] == 0 && h.prefix[0] == 0 && h.checksum[0] == 0) return {};  // the end's zeros
    if (!checksum_fits(h)) return invalid("a header whose checksum is wrong");
    auto size = number_of(h.size);
    auto mode = number_of(h.mode);
    if (!size || !mode) return invalid("a header with a malformed number");
    bool describes_next = h.type == 'x' || h.type == 'L' || h.type == 'K' || h.type == 'g';
    if (!describes_next && next.size) size = next.size;
    bool has_data = describes_next || kind_of(h.type) == TarEntry::Kind::kFile;
    if (!has_data && kind_of(h.type)) size = 0;
    at += kBlockBytes;
    if (*size > archive.size() - at) return invalid("an entry that is longer than the archive");
    std::span<const uint8_t> data = archive.subspan(at, *size);
    at += std::min<uint64_t>((*size + kBlockBytes - 1) / kBlockBytes * kBlockBytes,
                             archive.size() - at);
    std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    if (describes_next) {
      if (h.type == 'x' && !read_pax(text, next)) return invalid("a malformed pax header");
      if (h.type == 'L') next.path = text.substr(0, text.find('\0'));
      if (h.type == 'K') next.link = text.substr(0, text.find('\0'));
      continue;
    }
    if (auto kind = kind_of(h.type)) {
      TarEntry entry;
      entry.path = next.path ? *next.path : path_of(h);
      entry.link = next.link ? *next.link : std::string(text_of(h.link));
      entry.kind = *kind;
      // Old archives mark directories by their names.
      if (*kind == TarEntry::Kind::kFile && entry.path.ends_with('/')) {
        entry.kind = TarEntry::Kind::kDirectory;
      }
      entry.mode = static_cast<uint32_t>(*mode) & 07777;
      entry.data = data;
      if (auto taken = each(entry); !taken) return taken;
    }
    next = {};
  }
  return {};
}

}  // namespace sluice::vmm
