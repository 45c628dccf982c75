#include "storage/rocksdb/manifest_check.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "storage/rocksdb/log_format.h"

namespace sluice::storage {
namespace {

// What a change to the manifest begins with, in this order; files and the rest come behind it.
enum Tag : uint64_t {
  kComparator = 1,
  kLogNumber = 2,
  kNextFileNumber = 3,
  kLastSequence = 4,
  kPrevLogNumber = 9,
  kMinLogNumberToKeep = 10,
  kMaxColumnFamily = 203,
  kDatabaseId = 8193,
};

// Takes a varint off the front; false where there is none.
bool take(std::span<const uint8_t>& data, uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !data.empty(); shift += 7) {
    uint8_t byte = data[0];
    data = data.subspan(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

void read_change(std::span<const uint8_t> data, ManifestSummary& manifest) {
  uint64_t tag, value;
  while (take(data, tag)) {
    switch (tag) {
      case kComparator:
      case kDatabaseId:
        if (!take(data, value) || value > data.size()) return;
        data = data.subspan(value);
        break;
      case kLogNumber:
      case kNextFileNumber:
      case kLastSequence:
      case kPrevLogNumber:
      case kMinLogNumberToKeep:
      case kMaxColumnFamily:
        if (!take(data, value)) return;
        if (tag == kLastSequence) manifest.last_sequence = std::max(manifest.last_sequence, value);
        if (tag == kNextFileNumber) manifest.next_file = std::max(manifest.next_file, value);
        if (tag == kMinLogNumberToKeep) manifest.first_log = std::max(manifest.first_log, value);
        break;
      default:
        return;
    }
  }
}

// Up to the first damage.
ManifestSummary read_changes(std::span<const uint8_t> data) {
  using namespace log_format;
  ManifestSummary manifest;
  std::string change;
  while (!data.empty()) {
    auto block = data.first(std::min(data.size(), kBlockBytes));
    data = data.subspan(block.size());
    while (block.size() >= kHeaderBytes) {
      auto fragment = fragment_at(block);
      if (!fragment) return manifest;
      block = block.subspan(kHeaderBytes + fragment->payload.size());
      if (fragment->type == kFull || fragment->type == kFirst) change.clear();
      change.append(fragment->payload.begin(), fragment->payload.end());
      if (fragment->type != kFull && fragment->type != kLast) continue;
      read_change({reinterpret_cast<const uint8_t*>(change.data()), change.size()}, manifest);
    }
  }
  return manifest;
}

// Without any there is nothing that the manifest could have missed: the first start was cut short.
bool has_tables(rocksdb::Env* env, const std::string& directory) {
  std::vector<std::string> names;
  if (!env->GetChildren(directory, &names).ok()) return true;
  return std::ranges::any_of(names, [](const auto& name) { return name.ends_with(".sst"); });
}

}  // namespace

std::optional<ManifestSummary> read_manifest(rocksdb::Env* env, const std::string& directory) {
  std::string name, data;
  if (!rocksdb::ReadFileToString(env, directory + "/CURRENT", &name).ok()) return std::nullopt;
  if (name.ends_with('\n')) name.pop_back();
  if (!name.starts_with("MANIFEST-")) return std::nullopt;
  if (!rocksdb::ReadFileToString(env, directory + "/" + name, &data).ok()) return std::nullopt;
  auto manifest = read_changes({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
  manifest.name = std::move(name);
  return manifest;
}

Expected<> check_manifest(rocksdb::Env* env, const std::string& directory,
                          const ManifestSummary& manifest, const WalSummary& wal) {
  bool whole = wal.empty ? wal.oldest_log < manifest.next_file || !has_tables(env, directory)
                         : wal.first_sequence <= manifest.last_sequence + 1;
  if (whole) return {};
  return fail(Code::kCorrupt,
              fmt::format("the store's {} ends too early: it knows changes up to {}, and what "
                          "follows them is in none of the logs; starting would lose it; restore "
                          "the data directory from a copy",
                          manifest.name, manifest.last_sequence));
}

}  // namespace sluice::storage
