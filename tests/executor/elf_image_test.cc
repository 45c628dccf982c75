#include "executor/vmm/elf_image.h"

#include <cstring>
#include <random>

#include <elf.h>

#include "executor/vmm/layout.h"
#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

// A minimal good image: one executable segment with the headers in it.
struct Tiny {
  Elf64_Ehdr header{};
  Elf64_Phdr segments[2]{};
  uint8_t code[64]{};

  Tiny() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    header.e_entry = 0x400000 + offsetof(Tiny, code);
    segments[0] = {PT_LOAD, PF_R | PF_X, 0, 0x400000, 0x400000, sizeof *this, sizeof *this, 4096};
    segments[1] = {PT_LOAD, PF_R | PF_W, 0, 0x600000, 0x600000, 16, 8192, 4096};
  }
  std::vector<uint8_t> bytes() const {
    const auto* from = reinterpret_cast<const uint8_t*>(this);
    return {from, from + sizeof *this};
  }
};

std::string refusal(const std::vector<uint8_t>& bytes) {
  auto image = parse_elf(bytes);
  if (image) return "accepted";
  EXPECT_EQ(image.error().code, Code::kInvalid);
  return image.error().message;
}

std::string refusal(const Tiny& tiny) { return refusal(tiny.bytes()); }

TEST(Elf, GoodImageIsRead) {
  auto image = parse_elf(Tiny().bytes());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->segments.size(), 2u);
  EXPECT_EQ(image->low, 0x400000u);
  EXPECT_EQ(image->high, 0x602000u);
  EXPECT_EQ(image->program_headers, 0x400000 + sizeof(Elf64_Ehdr));
  EXPECT_EQ(image->segments[1].prot, kProtRead | kProtWrite);
}

TEST(Elf, WhatIsNotAStaticProgramIsNamed) {
  EXPECT_EQ(refusal(std::vector<uint8_t>{}), "the image is empty");
  std::string script = "#!/bin/sh\n";
  EXPECT_NE(refusal(std::vector<uint8_t>(script.begin(), script.end())).find("script"),
            std::string::npos);
  std::string text = "hello, this is text";
  EXPECT_NE(refusal(std::vector<uint8_t>(text.begin(), text.end())).find("not an ELF"),
            std::string::npos);
  auto dynamic = parse_elf(read_guest("empty_dynamic"));
  ASSERT_TRUE(dynamic) << dynamic.error().message;
  EXPECT_EQ(dynamic->interpreter, "/lib64/ld-linux-x86-64.so.2");
  Tiny t;
  t.header.e_ident[EI_CLASS] = ELFCLASS32;
  EXPECT_NE(refusal(t).find("32-bit"), std::string::npos);
  t = {};
  t.header.e_machine = EM_AARCH64;
  EXPECT_NE(refusal(t).find("another processor"), std::string::npos);
  t = {};
  t.header.e_type = ET_REL;
  EXPECT_NE(refusal(t).find("object file"), std::string::npos);
  t = {};
  t.header.e_ident[EI_DATA] = ELFDATA2MSB;
  EXPECT_NE(refusal(t).find("big-endian"), std::string::npos);
}

TEST(Elf, EveryTruncationIsRefused) {
  auto bytes = Tiny().bytes();
  for (size_t size = 0; size < bytes.size(); size++) {
    EXPECT_NE(refusal(std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<long>(size))),
              "accepted")
        << size;
  }
  auto real = read_guest("empty");
  real.resize(real.size() / 2);
  EXPECT_NE(refusal(real).find("truncated"), std::string::npos);
}

TEST(Elf, SegmentsOutsideTheFileOrTheLimitsAreRefused) {
  struct Change {
    const char* what;
    void (*apply)(Tiny&);
  };
  for (const Change& c : std::initializer_list<Change>{
           {"offset beyond the end", [](Tiny& t) { t.segments[1].p_offset = sizeof(Tiny) + 1; }},
           {"offset that overflows", [](Tiny& t) { t.segments[1].p_offset = UINT64_MAX - 7; }},
           {"file size that overflows",
            [](Tiny& t) { t.segments[1].p_filesz = t.segments[1].p_memsz = UINT64_MAX; }},
           {"more file than memory", [](Tiny& t) { t.segments[1].p_memsz = 8; }},
           {"memory size that overflows", [](Tiny& t) { t.segments[1].p_memsz = UINT64_MAX; }},
           {"address that overflows", [](Tiny& t) { t.segments[1].p_vaddr = UINT64_MAX - 100; }},
           {"kernel address", [](Tiny& t) { t.segments[1].p_vaddr = 0xffffffff80000000; }},
           {"the VMM's own pages", [](Tiny& t) { t.segments[1].p_vaddr = kKernelBase; }},
           {"null page", [](Tiny& t) { t.segments[0].p_vaddr = 0; }},
           {"overlap", [](Tiny& t) { t.segments[1].p_vaddr = 0x400010; }},
           {"wrong order", [](Tiny& t) { t.segments[1].p_vaddr = 0x300000; }},
           {"entry outside", [](Tiny& t) { t.header.e_entry = 0x500000; }},
           {"entry in data", [](Tiny& t) { t.header.e_entry = 0x600000; }},
           {"entry that overflows", [](Tiny& t) { t.header.e_entry = UINT64_MAX; }},
           {"no program headers", [](Tiny& t) { t.header.e_phnum = 0; }},
           {"too many program headers", [](Tiny& t) { t.header.e_phnum = 0xffff; }},
           {"program headers beyond the end", [](Tiny& t) { t.header.e_phoff = sizeof(Tiny) - 8; }},
           {"program headers that overflow", [](Tiny& t) { t.header.e_phoff = UINT64_MAX - 8; }},
           {"odd program headers", [](Tiny& t) { t.header.e_phentsize = 32; }},
           {"nothing to load", [](Tiny& t) { t.segments[0].p_type = t.segments[1].p_type = 0; }}}) {
    Tiny t;
    c.apply(t);
    EXPECT_NE(refusal(t), "accepted") << c.what;
  }
}

TEST(Elf, ImageLargerThanItsMemoryIsRefused) {
  Tiny t;
  t.segments[1].p_memsz = 60 << 20;
  auto image = parse_elf(t.bytes());
  ASSERT_TRUE(image);
  EXPECT_TRUE(make_layout(*image, 128 << 20));
  auto refused = make_layout(*image, 64 << 20);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("raise the limit"), std::string::npos);
}

// Mutated images are refused or run to some end; nothing else happens.
TEST(Elf, MutatedImagesNeverHarmTheHost) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  auto good = read_guest("empty");
  Limits limits;
  limits.timeout_ms = 20;
  int accepted = 0;
  for (int i = 0; i < 3000; i++) {
    auto bytes = good;
    int changes = 1 + static_cast<int>(random() % 4);
    for (int c = 0; c < changes; c++) {
      // Mostly the headers, where it matters.
      size_t at = random() % (random() % 4 != 0 ? 64 + 56 * 10 : bytes.size());
      uint8_t value = static_cast<uint8_t>(random());
      bytes[at] = random() % 3 == 0 ? 0xff : value;
    }
    if (random() % 10 == 0) bytes.resize(random() % bytes.size());
    auto image = parse_elf(bytes);
    if (!image || ++accepted % 20 != 0) continue;
    auto snapshot =
        Snapshot::load(machine(), {.name = "mutant", .image = bytes, .args = {"mutant"}}, limits);
    if (!snapshot) continue;
    auto sandbox = Sandbox::clone(machine(), *snapshot);
    ASSERT_TRUE(sandbox);
    (*sandbox)->call(bytes_of("x"));
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace sluice::vmm
