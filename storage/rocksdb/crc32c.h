#pragma once

#include <cstdint>
#include <span>

namespace sluice::storage {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4), by instruction where the CPU has it.
//
// RocksDB as Debian builds it computes this in software, which cost a tenth of the CPU time of
// publishing. So a program that contains this function also defines rocksdb::crc32c::Extend, which
// the dynamic linker then takes instead of the one in RocksDB's shared library. Were that built or
// named otherwise, it would use its own again; crc32c_test.cc says so.
uint32_t crc32c(std::span<const uint8_t> bytes);

// The CRC of bytes in front of `bytes` and those, where `crc` is that of the former.
uint32_t crc32c_extend(uint32_t crc, std::span<const uint8_t> bytes);

namespace crc32c_detail {
// What crc32c_extend() does on any CPU.
uint32_t extend_by_table(uint32_t crc, std::span<const uint8_t> bytes);
}  // namespace crc32c_detail

}  // namespace sluice::storage
