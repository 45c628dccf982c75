#include "storage/rocksdb/crc32c.h"

#include <csignal>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <rocksdb/file_checksum.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

namespace sluice::storage {
namespace {

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::vector<uint8_t> random_bytes(size_t count) {
  std::mt19937_64 random(count);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// The vectors of RFC 3720, appendix B.4, and the usual one.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c(std::vector<uint8_t>(32, 0)), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::vector<uint8_t>(32, 0xff)), 0x62a8ab43u);
  std::vector<uint8_t> ascending(32);
  for (size_t i = 0; i < ascending.size(); ++i) ascending[i] = static_cast<uint8_t>(i);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eu);
}

TEST(Crc32c, InstructionAndTableAgreeAtEveryLengthAndAlignment) {
  std::vector<uint8_t> bytes = random_bytes(5000);
  for (size_t start = 0; start < 9; ++start) {
    for (size_t length = 0; length <= 2400; ++length) {
      auto part = std::span(bytes).subspan(start, length);
      auto before = static_cast<uint32_t>(start * 0x9e3779b9u);
      ASSERT_EQ(crc32c_extend(before, part), crc32c_detail::extend_by_table(before, part))
          << "from " << start << ", " << length << " bytes";
    }
  }
}

TEST(Crc32c, ExtendsWhereItIsCut) {
  std::vector<uint8_t> bytes = random_bytes(4000);
  uint32_t whole = crc32c(bytes);
  for (size_t cut = 0; cut <= bytes.size(); cut += 7) {
    auto all = std::span<const uint8_t>(bytes);
    EXPECT_EQ(crc32c_extend(crc32c(all.first(cut)), all.subspan(cut)), whole);
  }
}

using Extend = uint32_t (*)(uint32_t, const char*, size_t);
constexpr const char* kExtend = "_ZN7rocksdb6crc32c6ExtendEjPKcm";

TEST(Crc32c, AgreesWithRocksDbs) {
  auto theirs = reinterpret_cast<Extend>(dlsym(RTLD_NEXT, kExtend));
  ASSERT_NE(theirs, nullptr);
  std::vector<uint8_t> bytes = random_bytes(100'000);
  for (size_t length : {0u, 1u, 7u, 8u, 767u, 768u, 769u, 4096u, 32'768u, 100'000u}) {
    EXPECT_EQ(crc32c_extend(17, std::span(bytes).first(length)),
              theirs(17, reinterpret_cast<const char*>(bytes.data()), length))
        << length;
  }
}

constexpr int kOutsideTheLibrary = 42;

// Ends the process; the status says whether the code that faulted is in RocksDB's library.
void tell_where(int, siginfo_t*, void* context) {
  auto at = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  Dl_info place;
  bool known = dladdr(reinterpret_cast<void*>(at), &place) != 0;
  _exit(known && std::strstr(place.dli_fname, "librocksdb") == nullptr ? kOutsideTheLibrary : 1);
}

// RocksDB is given bytes that fault when they are read. Where this fails it works, but with its own
// function, which is several times slower.
TEST(Crc32c, RocksDbCallsOurs) {
  auto generator = rocksdb::GetFileChecksumGenCrc32cFactory()->CreateFileChecksumGenerator({});
  void* unreadable = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(unreadable, MAP_FAILED);
  EXPECT_EXIT(
      {
        struct sigaction action = {};
        action.sa_sigaction = tell_where;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, nullptr);
        generator->Update(static_cast<const char*>(unreadable), 4096);
      },
      testing::ExitedWithCode(kOutsideTheLibrary), "");
  munmap(unreadable, 4096);
}

}  // namespace
}  // namespace sluice::storage
