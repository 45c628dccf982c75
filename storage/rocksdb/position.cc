#include "storage/rocksdb/position.h"

#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/watermarks.h"

namespace sluice::storage {
namespace {

constexpr size_t kFieldBytes = 8;
constexpr size_t kFields = 4;  // in front of the ranges

void append(std::string& row, uint64_t value) {
  char bytes[kFieldBytes];
  put_be64(bytes, value);
  row.append(bytes, sizeof bytes);
}

}  // namespace

std::string encode_position(const Batch::Advance& advance) {
  std::string row;
  append(row, advance.watermark);
  if (advance.watermark == kDropped) return row;
  append(row, advance.below);
  append(row, advance.count);
  append(row, advance.bytes);
  for (const SequenceRange& range : advance.purged) {
    append(row, range.first);
    append(row, range.end);
  }
  return row;
}

std::optional<Batch::Advance> decode_position(std::string_view row) {
  Batch::Advance advance{};
  auto field = [row](size_t index) { return get_be64(row.data() + index * kFieldBytes); };
  if (row.size() == kFieldBytes && field(0) == kDropped) {
    advance.watermark = kDropped;
    return advance;
  }
  if (row.size() < kFields * kFieldBytes || row.size() % (2 * kFieldBytes) != 0) return {};
  advance.watermark = field(0);
  advance.below = field(1);
  advance.count = field(2);
  advance.bytes = field(3);
  for (size_t at = kFields; at < row.size() / kFieldBytes; at += 2) {
    advance.purged.push_back({field(at), field(at + 1)});
  }
  return advance;
}

}  // namespace sluice::storage
