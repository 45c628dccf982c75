// read_tar() of rootfs_read.h: libarchive reads what others packed, RootfsTree says what is
// allowed.
#include <algorithm>
#include <clocale>
#include <cstring>
#include <memory>

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "tools/cli/limits.h"
#include "tools/cli/rootfs_read.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

// libarchive converts names to the thread's locale, and gives none where it can not.
class Utf8Locale {
 public:
  Utf8Locale() : locale_(newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_ != nullptr) before_ = uselocale(locale_);
  }
  ~Utf8Locale() {
    if (locale_ == nullptr) return;
    uselocale(before_);
    freelocale(locale_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  locale_t locale_;
  locale_t before_ = nullptr;
};

class TarReader {
 public:
  TarReader(RootfsTree& tree, std::string_view name, const PathFilter& filter,
            const EntrySeen& seen)
      : tree_(tree),
        name_(name),
        filter_(filter),
        seen_(seen),
        archive_(archive_read_new(), archive_read_free) {}

  Expected<LeftOut> run(std::string_view tar) {
    archive* reader = archive_.get();
    archive_read_support_format_tar(reader);
    archive_read_support_format_gnutar(reader);
    for (const auto support : {archive_read_support_filter_gzip, archive_read_support_filter_zstd,
                               archive_read_support_filter_xz, archive_read_support_filter_bzip2}) {
      support(reader);
    }
    if (archive_read_open_memory(reader, tar.data(), tar.size()) != ARCHIVE_OK) return broken();
    archive_entry* entry = nullptr;
    uint64_t entries = 0;
    int got = 0;
    while ((got = archive_read_next_header(reader, &entry)) == ARCHIVE_OK || got == ARCHIVE_WARN) {
      if (++entries > kRootfsEntriesMax) {
        return fail(Code::kLimit,
                    fmt::format("'{}' has more than {} entries", name_, kRootfsEntriesMax));
      }
      seen_(entries);
      if (const auto done = add(entry); !done) return std::unexpected(done.error());
    }
    if (got != ARCHIVE_EOF) return broken();
    // An empty file is an archive to libarchive.
    if (entries == 0) return fail(Code::kInvalid, fmt::format("'{}' is an empty archive", name_));
    return left_out_;
  }

 private:
  std::unexpected<Error> broken() {
    const char* why = archive_error_string(archive_.get());
    return fail(
        Code::kInvalid,
        fmt::format("'{}' is not a tar archive, or it is damaged ({}); a directory, or a tar "
                    "that is plain or compressed with gzip, zstd, xz or bzip2 is expected",
                    name_, why == nullptr ? "no reason given" : printable(why)));
  }

  Expected<> in_archive(const Expected<>& done) {
    if (done) return {};
    return fail(done.error().code, fmt::format("'{}': {}", name_, done.error().message));
  }

  Expected<std::string> content(const archive_entry* entry) {
    const int64_t size = archive_entry_size(const_cast<archive_entry*>(entry));
    const uint64_t room = kRootfsBytesMax - std::min(kRootfsBytesMax, tree_.bytes());
    if (size < 0 || static_cast<uint64_t>(size) > room) {
      return fail(Code::kLimit,
                  fmt::format("'{}' holds more than {}", name_, human_bytes(kRootfsBytesMax)));
    }
    // Grows with what is there, not with what a header claims.
    std::string bytes;
    char buffer[64 * 1024];
    la_ssize_t got = 0;
    while ((got = archive_read_data(archive_.get(), buffer, sizeof buffer)) > 0) {
      bytes.append(buffer, static_cast<size_t>(got));
      if (bytes.size() > room) {
        return fail(Code::kLimit,
                    fmt::format("'{}' holds more than {}", name_, human_bytes(kRootfsBytesMax)));
      }
    }
    if (got < 0) return broken();
    return bytes;
  }

  Expected<> add(archive_entry* entry) {
    const char* path = archive_entry_pathname(entry);
    if (path == nullptr) path = archive_entry_pathname_utf8(entry);
    if (path == nullptr)
      return fail(Code::kInvalid, fmt::format("'{}': an entry's name can not be "
                                              "read",
                                              name_));
    if (!filter_(path)) return {};
    const uint32_t mode = archive_entry_perm(entry);
    if (const char* existing = archive_entry_hardlink(entry); existing != nullptr) {
      if (!filter_(existing)) return {};
      return in_archive(tree_.add_hardlink(path, existing));
    }
    switch (archive_entry_filetype(entry)) {
      case AE_IFDIR:
        return in_archive(tree_.add_directory(path, mode));
      case AE_IFLNK: {
        const char* target = archive_entry_symlink(entry);
        return in_archive(tree_.add_symlink(path, target == nullptr ? "" : target));
      }
      case AE_IFREG: {
        if (mode & (S_ISUID | S_ISGID)) ++left_out_.set_ids;
        auto bytes = content(entry);
        if (!bytes) return std::unexpected(bytes.error());
        return in_archive(tree_.add_file(path, mode, std::move(*bytes)));
      }
      case AE_IFIFO:
        ++left_out_.fifos;
        return {};
      case AE_IFSOCK:
        ++left_out_.sockets;
        return {};
      default:
        ++left_out_.devices;
        return {};
    }
  }

  RootfsTree& tree_;
  const std::string name_;
  const PathFilter& filter_;
  const EntrySeen& seen_;
  const std::unique_ptr<archive, int (*)(archive*)> archive_;
  LeftOut left_out_;
};

}  // namespace

Expected<LeftOut> read_tar(RootfsTree& tree, std::string_view tar, std::string_view name,
                           const PathFilter& filter, const EntrySeen& seen) {
  const Utf8Locale locale;
  return TarReader(tree, name, filter, seen).run(tar);
}

}  // namespace sluice::cli
