#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "storage/rocksdb/crc32c.h"

// The layout of RocksDB's logs, which its write-ahead logs and its manifest have in common (its
// wiki, "Write Ahead Log File Format"), without recycled logs.
namespace sluice::storage::log_format {

inline constexpr size_t kBlockBytes = 32768;
inline constexpr size_t kHeaderBytes = 7;  // crc32c, masked (4), length (2), type (1)

enum Type : uint8_t { kZero = 0, kFull = 1, kFirst, kMiddle, kLast };

template <typename T>
T get_le(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A stretch of a log's record: all of it, or the part that fits into a block.
struct Fragment {
  Type type;
  std::span<const uint8_t> payload;
};

// The valid fragment that begins with `data`, which ends where its block does.
inline std::optional<Fragment> fragment_at(std::span<const uint8_t> data) {
  if (data.size() < kHeaderBytes) return std::nullopt;
  size_t length = get_le<uint16_t>(data.data() + 4);
  uint8_t type = data[6];
  if (type < kFull || type > kLast || length > data.size() - kHeaderBytes) return std::nullopt;
  uint32_t masked = get_le<uint32_t>(data.data()) - 0xa282ead8u;
  uint32_t expected = (masked >> 17) | (masked << 15);
  if (crc32c(data.subspan(6, length + 1)) != expected) return std::nullopt;
  return Fragment{static_cast<Type>(type), data.subspan(kHeaderBytes, length)};
}

}  // namespace sluice::storage::log_format
