#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

namespace sluice::storage {

namespace crc32c_detail {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}
inline constexpr std::array<uint32_t, 256> kTable = make_table();

__attribute__((target("sse4.2"))) inline uint32_t by_instruction(std::span<const uint8_t> bytes) {
  uint64_t crc = 0xffffffff;
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  auto rest = static_cast<uint32_t>(crc);
  for (; at < bytes.size(); ++at) rest = __builtin_ia32_crc32qi(rest, bytes[at]);
  return ~rest;
}

inline uint32_t by_table(std::span<const uint8_t> bytes) {
  uint32_t crc = 0xffffffff;
  for (uint8_t byte : bytes) crc = kTable[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

}  // namespace crc32c_detail

// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
inline uint32_t crc32c(std::span<const uint8_t> bytes) {
  static const bool fast = __builtin_cpu_supports("sse4.2");
  return fast ? crc32c_detail::by_instruction(bytes) : crc32c_detail::by_table(bytes);
}

}  // namespace sluice::storage
