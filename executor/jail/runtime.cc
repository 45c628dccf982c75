#include "executor/jail/runtime.h"

#include <cstdlib>
#include <thread>

namespace sluice::executor::jail {
namespace {

// More than glibc keeps at the end of a thread's arena (M_TRIM_THRESHOLD), in blocks too small for
// a mapping of their own (M_MMAP_THRESHOLD).
constexpr int kBlocks = 4;
constexpr size_t kBlockBytes = 100'000;

}  // namespace

void prepare_runtime() {
  // glibc reads /proc/sys/vm/overcommit_memory when it first shrinks a thread's arena, and asks how
  // many CPUs there are when it makes one; the first thread of all sets up signal handlers.
  std::thread([] {
    void* blocks[kBlocks];
    for (void*& block : blocks) block = std::malloc(kBlockBytes);
    // The compiler knows what malloc and free do, and would do without.
    asm volatile("" : : "r"(blocks) : "memory");
    for (int i = kBlocks - 1; i >= 0; i--) std::free(blocks[i]);
  }).join();
}

}  // namespace sluice::executor::jail
