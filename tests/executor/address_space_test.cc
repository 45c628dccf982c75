#include "executor/vmm/address_space.h"

#include <cerrno>
#include <cstring>
#include <random>

#include <sys/mman.h>

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

// An address space without a vCPU.
class AddressSpaceTest : public testing::Test {
 protected:
  AddressSpaceTest() {
    ElfImage image;
    image.low = 0x400000;
    image.high = 0x410000;
    layout = *make_layout(image, 16 << 20);
    ram = std::move(*GuestRam::create(layout.total_bytes));
    space = std::make_unique<AddressSpace>(layout, *ram);
    space->load_pages(layout.page_of(image.low), 16, kProtRead | kProtExec);
    space->load_pages(layout.stack_low, layout.window_pages - layout.stack_low,
                      kProtRead | kProtWrite);
    space->set_break(image.high);
  }
  uint64_t entry(uint64_t address) {
    uint64_t value;
    uint64_t offset = layout.window_pt + layout.page_of(address) * 8;
    std::memcpy(&value, ram->readable(offset, 8), 8);
    return value;
  }
  int64_t map(uint64_t bytes, uint64_t prot = PROT_READ | PROT_WRITE) {
    return space->mmap(0, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS);
  }

  Layout layout;
  std::unique_ptr<GuestRam> ram;
  std::unique_ptr<AddressSpace> space;
};

TEST_F(AddressSpaceTest, AccessFollowsProtection) {
  uint64_t text = 0x400000;
  EXPECT_NE(space->for_read(text, 0x10000), nullptr);
  EXPECT_EQ(space->for_read(text, 0x10001), nullptr) << "one byte beyond";
  EXPECT_EQ(space->for_write(text, 1), nullptr);
  EXPECT_EQ(space->for_read(0, 1), nullptr);
  EXPECT_EQ(space->for_read(layout.window_end(), 1), nullptr);
  EXPECT_NE(space->for_write(layout.window_end() - 1, 1), nullptr) << "the stack's last byte";
  EXPECT_EQ(space->for_write(layout.window_end() - 1, 2), nullptr);
  EXPECT_EQ(space->for_read(text, UINT64_MAX), nullptr);
  EXPECT_EQ(space->for_read(UINT64_MAX, 2), nullptr);
  EXPECT_EQ(space->for_read(kKernelBase + kPageBytes, 8), nullptr);
  EXPECT_EQ(space->for_read(0xffffffff80000000, 8), nullptr);
  uint64_t below = layout.address_of(layout.stack_low) - 1;
  EXPECT_EQ(space->for_write(below, 1), nullptr) << "the stack's guard";
}

TEST_F(AddressSpaceTest, PageTablesFollowToo) {
  auto at = static_cast<uint64_t>(map(8192));
  EXPECT_EQ(entry(at) & 0x8000000000000fff, 0x8000000000000067u) << "user, writable, no execute";
  EXPECT_EQ(space->mprotect(at, 4096, PROT_READ | PROT_EXEC), 0);
  EXPECT_EQ(entry(at) & 0x8000000000000fff, 0x65u);
  EXPECT_EQ(space->mprotect(at, 4096, PROT_NONE), 0);
  EXPECT_EQ(entry(at), 0u);
  EXPECT_EQ(space->munmap(at, 8192), 0);
  EXPECT_EQ(entry(at + 4096), 0u);
}

TEST_F(AddressSpaceTest, BadRequestsAreRefused) {
  EXPECT_EQ(map(0), -EINVAL);
  EXPECT_EQ(map(1ull << 60), -ENOMEM);
  EXPECT_EQ(map(UINT64_MAX), -ENOMEM);
  EXPECT_EQ(space->mmap(0x1000, 4096, PROT_READ, MAP_FIXED), -ENOMEM);
  EXPECT_EQ(space->mmap(kKernelBase, 4096, PROT_READ, MAP_FIXED), -ENOMEM);
  EXPECT_EQ(space->mmap(layout.window_end(), 4096, PROT_READ, MAP_FIXED), -ENOMEM);
  EXPECT_EQ(space->munmap(0x400001, 4096), -EINVAL);
  EXPECT_EQ(space->munmap(0x400000, UINT64_MAX), -EINVAL);
  EXPECT_EQ(space->mprotect(layout.window_end() - 4096, 8192, PROT_READ), -ENOMEM);
  EXPECT_EQ(space->mremap(0x400000, 4096, UINT64_MAX, MREMAP_MAYMOVE, 0), -EINVAL);
  EXPECT_EQ(space->mremap(0x400000, UINT64_MAX, 4096, MREMAP_MAYMOVE, 0), -EFAULT);
  EXPECT_EQ(space->discard(0x400000, 1ull << 46, [] { return true; }), -ENOMEM);
}

TEST_F(AddressSpaceTest, MemoryGivenBackComesAsZerosAgain) {
  for (int round = 0; round < 3; round++) {
    auto at = static_cast<uint64_t>(map(1 << 20));
    uint8_t* bytes = space->for_write(at, 1 << 20);
    ASSERT_NE(bytes, nullptr);
    for (size_t i = 0; i < 1 << 20; i++) ASSERT_EQ(bytes[i], 0) << i;
    std::memset(bytes, 0xaa, 1 << 20);
    EXPECT_EQ(space->munmap(at, 1 << 20), 0);
  }
}

TEST_F(AddressSpaceTest, HeapAndMappingsMeetInTheMiddle) {
  uint64_t mapped = 0;
  while (map(1 << 20) > 0) mapped += 1 << 20;
  EXPECT_GE(mapped, 12u << 20);
  EXPECT_LE(mapped, 14u << 20);
  uint64_t heap = space->map()->break_now;
  EXPECT_EQ(space->brk(heap + (8 << 20)), -ENOMEM);
  EXPECT_EQ(space->brk(0), static_cast<int64_t>(heap)) << "asks only";
}

TEST_F(AddressSpaceTest, StringsEndAtTheLimitOrTheFault) {
  auto at = static_cast<uint64_t>(map(8192));
  uint8_t* bytes = space->for_write(at, 8192);
  std::memset(bytes, 'x', 8192);
  EXPECT_EQ(space->get_string(at, 100)->size(), 101u);
  EXPECT_FALSE(space->get_string(at + 8190, 100)) << "runs off the mapping";
  bytes[8191] = 0;
  EXPECT_EQ(*space->get_string(at + 8190, 100), "x");
  EXPECT_EQ(*space->get_string(at + 4000, 5000), std::string(4191, 'x'));
}

// Whatever is asked for, in whatever order: the page tables agree with the map, page by page.
TEST_F(AddressSpaceTest, RandomCallsKeepTablesAndMapTogether) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  auto address = [&] {
    return layout.window + (random() % (layout.window_pages + 8)) * kPageBytes +
           (random() % 8 == 0);
  };
  auto size = [&] { return random() % 20 == 0 ? random() : random() % (64 * kPageBytes); };
  for (int i = 0; i < 4000; i++) {
    uint64_t flags = random() % 3 == 0 ? MAP_FIXED : 0;
    switch (random() % 6) {
      case 0:
        space->mmap(address(), size(), random() % 8, flags);
        break;
      case 1:
        space->munmap(address(), size());
        break;
      case 2:
        space->mprotect(address(), size(), random() % 8);
        break;
      case 3:
        space->mremap(address(), size(), size(), random() % 2, 0);
        break;
      case 4:
        space->brk(space->map()->break_now + size() - 32 * kPageBytes);
        break;
      default:
        space->discard(address(), size(), [] { return true; });
        break;
    }
  }
  for (uint64_t page = 0; page < layout.window_pages; page++) {
    uint8_t state = space->map()->pages[page];
    ASSERT_EQ(entry(layout.address_of(page)), page_table_entry(layout.physical_page(page), state));
  }
}

}  // namespace
}  // namespace sluice::vmm
