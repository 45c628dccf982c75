#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/vmm/limits.h"

// Reads a static x86-64 ELF (System V ABI, AMD64 supplement). The image is hostile input: nothing
// in it is believed before it is checked, and nothing of it is run here.
namespace sluice::vmm {

enum Prot : uint8_t { kProtNone = 0, kProtRead = 1, kProtWrite = 2, kProtExec = 4 };

// One PT_LOAD. Addresses are those in the guest, so with the load bias of a static-pie added.
struct Segment {
  uint64_t address = 0;
  uint64_t memory_bytes = 0;  // what lies beyond file_bytes is zero
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;
  uint8_t prot = kProtNone;
};

struct ElfImage {
  uint64_t entry = 0;
  uint64_t low = 0;              // page-aligned
  uint64_t high = 0;             // page-aligned, exclusive; the break starts here
  uint64_t program_headers = 0;  // their address in the guest, 0 where they are not loaded
  uint16_t program_header_count = 0;
  std::string interpreter;  // of a dynamically linked one: the dynamic linker's path
  bool position_independent = false;
  std::vector<Segment> segments;  // ascending, not overlapping, each within the file and the limits
};

// A position-independent image is put at `pie_base`, or a little above it for its alignment's sake.
// Errors: kInvalid, saying what is wrong with the image and, where there is one, the remedy.
Expected<ElfImage> parse_elf(std::span<const uint8_t> file, uint64_t pie_base = kPieBase);

}  // namespace sluice::vmm
