#include "executor/process/unpack.h"

#include <cerrno>
#include <cstring>
#include <memory>

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "executor/process/limits.h"

namespace sluice::process {
namespace {

struct CloseReading {
  void operator()(archive* a) const { archive_read_free(a); }
};
struct CloseWriting {
  void operator()(archive* a) const { archive_write_free(a); }
};

// ARCHIVE_EXTRACT_PERM is left out on purpose: without it set-id bits are not restored.
constexpr int kFlags = ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                       ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;

std::unexpected<Error> refused(archive* a, const std::string& path) {
  bool full = archive_errno(a) == ENOSPC;
  std::string what = archive_error_string(a) != nullptr ? archive_error_string(a) : "unknown";
  if (full) {
    return fail(Code::kLimit,
                fmt::format("the root file system does not fit: more than {} bytes or {} entries "
                            "(at {})",
                            kRootfsBytesMax, kRootfsEntriesMax, path));
  }
  return fail(Code::kInvalid,
              fmt::format("the root file system's archive can not be unpacked at {}: {}",
                          path.empty() ? "its start" : path, what));
}

// "./usr/bin", "/usr/bin" and "usr/bin" are the same.
std::string relative(const char* path) {
  while (*path == '/' || (*path == '.' && (path[1] == '/' || path[1] == 0))) path++;
  return path;
}

bool is_under(const std::string& path, const std::string& folder) {
  return path == folder || path.starts_with(folder + "/");
}

bool is_wanted(archive_entry* entry, const std::string& path) {
  if (path.empty() || is_under(path, "dev") || is_under(path, "proc")) return false;
  if (archive_entry_hardlink(entry) != nullptr) return true;
  auto type = archive_entry_filetype(entry);
  return type == AE_IFREG || type == AE_IFDIR || type == AE_IFLNK;
}

int copy_data(archive* in, archive* out) {
  for (;;) {
    const void* block;
    size_t bytes;
    int64_t offset;
    int result = archive_read_data_block(in, &block, &bytes, &offset);
    if (result == ARCHIVE_EOF) return ARCHIVE_OK;
    if (result != ARCHIVE_OK) return result;
    if (archive_write_data_block(out, block, bytes, offset) < 0) {
      archive_copy_error(in, out);
      return ARCHIVE_FATAL;
    }
  }
}

}  // namespace

Expected<void> unpack_tar(std::span<const uint8_t> bytes) {
  std::unique_ptr<archive, CloseReading> in(archive_read_new());
  std::unique_ptr<archive, CloseWriting> out(archive_write_disk_new());
  archive_read_support_format_tar(in.get());
  archive_write_disk_set_options(out.get(), kFlags);
  if (archive_read_open_memory(in.get(), bytes.data(), bytes.size()) != ARCHIVE_OK) {
    return refused(in.get(), "");
  }
  std::string path;
  for (;;) {
    archive_entry* entry;
    int result = archive_read_next_header(in.get(), &entry);
    if (result == ARCHIVE_EOF) break;
    // A warning (an attribute that is not known, say) is none of a program's business.
    if (result < ARCHIVE_WARN) return refused(in.get(), path);
    const char* name = archive_entry_pathname(entry);
    path = name != nullptr ? relative(name) : "";
    if (!is_wanted(entry, path)) continue;
    archive_entry_copy_pathname(entry, path.c_str());
    if (const char* target = archive_entry_hardlink(entry)) {
      archive_entry_copy_hardlink(entry, relative(std::string(target).c_str()).c_str());
    }
    // Readable for the program whatever the archive says; it is all the same user's.
    archive_entry_set_perm(entry, (archive_entry_perm(entry) & 0777) | 0400 |
                                      (archive_entry_filetype(entry) == AE_IFDIR ? 0700 : 0));
    if (archive_write_header(out.get(), entry) < ARCHIVE_WARN) return refused(out.get(), path);
    if (copy_data(in.get(), out.get()) != ARCHIVE_OK) return refused(in.get(), path);
    if (archive_write_finish_entry(out.get()) < ARCHIVE_WARN) return refused(out.get(), path);
  }
  if (archive_write_close(out.get()) < ARCHIVE_WARN) return refused(out.get(), path);
  return {};
}

}  // namespace sluice::process
