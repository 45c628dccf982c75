#include "storage/rocksdb/crc32c.h"

#include <array>
#include <cstddef>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace sluice::storage {
namespace {

// Castagnoli's polynomial. In a register the lowest bit is the highest power of x.
constexpr uint32_t kPolynomial = 0x82f63b78u;

constexpr uint32_t times_x(uint32_t value) {
  return (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
}

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = times_x(value);
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

#ifdef __x86_64__

// An instruction takes eight bytes and three cycles, but one can begin in each cycle: three lanes
// next to each other are computed at once.
constexpr size_t kLaneBytes = 256;

// Multiplied with a register without carries and then taken by the instruction, which multiplies
// with x^32 and the product's unused bit with x, this makes of a CRC that of `bytes` zeros more.
constexpr uint32_t shift_by(size_t bytes) {
  uint32_t power = 0x80000000u;  // x^0
  for (size_t bit = 0; bit < 8 * bytes - 33; ++bit) power = times_x(power);
  return power;
}
constexpr uint32_t kShiftOne = shift_by(kLaneBytes);
constexpr uint32_t kShiftTwo = shift_by(2 * kLaneBytes);

uint64_t word_at(const uint8_t* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

__attribute__((target("sse4.2,pclmul"))) uint64_t shifted(uint64_t crc, uint32_t shift) {
  __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<int64_t>(crc)),
                                         _mm_cvtsi64_si128(shift), 0);
  return _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product)));
}

__attribute__((target("sse4.2,pclmul"))) uint32_t extend_by_instruction(
    uint32_t before, std::span<const uint8_t> bytes) {
  uint64_t crc = ~before;
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 3 * kLaneBytes; left -= 3 * kLaneBytes, at += 3 * kLaneBytes) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kLaneBytes; i += 8) {
      crc = _mm_crc32_u64(crc, word_at(at + i));
      second = _mm_crc32_u64(second, word_at(at + kLaneBytes + i));
      third = _mm_crc32_u64(third, word_at(at + 2 * kLaneBytes + i));
    }
    crc = shifted(crc, kShiftTwo) ^ shifted(second, kShiftOne) ^ third;
  }
  for (; left >= 8; left -= 8, at += 8) crc = _mm_crc32_u64(crc, word_at(at));
  auto rest = static_cast<uint32_t>(crc);
  for (; left > 0; --left) rest = _mm_crc32_u8(rest, *at++);
  return ~rest;
}

bool has_instruction() {
  return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

#endif

}  // namespace

uint32_t crc32c_detail::extend_by_table(uint32_t crc, std::span<const uint8_t> bytes) {
  crc = ~crc;
  for (uint8_t byte : bytes) crc = kTable[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

uint32_t crc32c_extend(uint32_t crc, std::span<const uint8_t> bytes) {
#ifdef __x86_64__
  static const bool fast = has_instruction();
  if (fast) return extend_by_instruction(crc, bytes);
#endif
  return crc32c_detail::extend_by_table(crc, bytes);
}

uint32_t crc32c(std::span<const uint8_t> bytes) { return crc32c_extend(0, bytes); }

}  // namespace sluice::storage

// Stands in for the function of that name in RocksDB's library (util/crc32c.h, which it does not
// install).
namespace rocksdb::crc32c {
uint32_t Extend(uint32_t before, const char* data, size_t size);
uint32_t Extend(uint32_t before, const char* data, size_t size) {
  return sluice::storage::crc32c_extend(before, {reinterpret_cast<const uint8_t*>(data), size});
}
}  // namespace rocksdb::crc32c
