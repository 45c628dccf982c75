#include "executor/jail/runtime.h"

#include <cstdlib>
#include <thread>

#include <malloc.h>
#include <sched.h>

namespace sluice::executor::jail {
namespace {

// More than glibc keeps at the end of a thread's arena (M_TRIM_THRESHOLD), in blocks too small for
// a mapping of their own (M_MMAP_THRESHOLD).
constexpr int kBlocks = 4;
constexpr size_t kBlockBytes = 100'000;
constexpr int kArenasPerCpu = 8;

int cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

void prepare_runtime() {
  // Left to itself, glibc counts the CPUs by a file under /sys when it makes the ninth arena; this
  // is the number that it would come to.
  mallopt(M_ARENA_MAX, kArenasPerCpu * cpus());
  // It reads /proc/sys/vm/overcommit_memory when it first shrinks a thread's arena; and the first
  // thread of all sets up signal handlers.
  std::thread([] {
    void* blocks[kBlocks];
    for (void*& block : blocks) block = std::malloc(kBlockBytes);
    // The compiler knows what malloc and free do, and would do without.
    asm volatile("" : : "r"(blocks) : "memory");
    for (int i = kBlocks - 1; i >= 0; i--) std::free(blocks[i]);
  }).join();
}

}  // namespace sluice::executor::jail
