#include "executor/vmm/random.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/random.h>

#include "base/check.h"

namespace sluice::vmm {
namespace {

void from_system(std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    ssize_t got = getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    CHECK(got > 0);
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

struct Pool {
  uint8_t bytes[4096];
  size_t left = 0;
};
thread_local Pool pool;

}  // namespace

void fill_random(std::span<uint8_t> bytes) {
  if (bytes.size() > sizeof pool.bytes / 8) return from_system(bytes);
  if (pool.left < bytes.size()) {
    from_system(pool.bytes);
    pool.left = sizeof pool.bytes;
  }
  if (bytes.empty()) return;
  pool.left -= bytes.size();
  std::memcpy(bytes.data(), pool.bytes + pool.left, bytes.size());
  explicit_bzero(pool.bytes + pool.left, bytes.size());
}

}  // namespace sluice::vmm
