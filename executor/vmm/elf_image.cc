#include "executor/vmm/elf_image.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <elf.h>
#include <fmt/format.h>

#include "executor/vmm/limits.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kAlignMax = 1ull << 30;

std::unexpected<Error> invalid(std::string message) {
  return fail(Code::kInvalid, std::move(message));
}

// Whether [offset, offset + bytes) lies within `size`, without overflow.
bool within(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset <= size && bytes <= size - offset;
}

const char* file_kind(uint16_t type) {
  switch (type) {
    case ET_REL:
      return "an object file; link it";
    case ET_CORE:
      return "a core dump";
    default:
      return "not an executable";
  }
}

Expected<Elf64_Ehdr> read_header(std::span<const uint8_t> file) {
  if (file.empty()) return invalid("the image is empty");
  if (file.size() > kImageBytesMax) {
    return invalid(
        fmt::format("the image has {} bytes; the limit is {}", file.size(), kImageBytesMax));
  }
  if (file.size() >= 2 && file[0] == '#' && file[1] == '!') {
    return invalid("the image is a script, not an ELF executable");
  }
  if (file.size() < SELFMAG || std::memcmp(file.data(), ELFMAG, SELFMAG) != 0) {
    return invalid("the image is not an ELF file");
  }
  if (file.size() > EI_CLASS && file[EI_CLASS] == ELFCLASS32) {
    return invalid("the image is a 32-bit program; build it for x86-64");
  }
  if (file.size() < sizeof(Elf64_Ehdr)) {
    return invalid("the image is truncated: its ELF header is incomplete");
  }
  Elf64_Ehdr h;
  std::memcpy(&h, file.data(), sizeof h);
  if (h.e_ident[EI_CLASS] != ELFCLASS64) return invalid("the image's ELF class is unknown");
  if (h.e_ident[EI_DATA] != ELFDATA2LSB) {
    return invalid("the image is big-endian; build it for x86-64");
  }
  if (h.e_machine != EM_X86_64) {
    return invalid(
        fmt::format("the image is for another processor (ELF machine {}); build it for "
                    "x86-64",
                    h.e_machine));
  }
  if (h.e_type != ET_EXEC && h.e_type != ET_DYN) {
    return invalid(fmt::format("the image is {}", file_kind(h.e_type)));
  }
  return h;
}

Expected<std::vector<Elf64_Phdr>> read_program_headers(std::span<const uint8_t> file,
                                                       const Elf64_Ehdr& h) {
  if (h.e_phnum == 0) return invalid("the image has no program headers");
  if (h.e_phnum > kProgramHeadersMax) {
    return invalid(fmt::format("the image has {} program headers; the limit is {}", h.e_phnum,
                               kProgramHeadersMax));
  }
  if (h.e_phentsize != sizeof(Elf64_Phdr)) {
    return invalid("the image's program headers have an unknown size");
  }
  if (!within(h.e_phoff, h.e_phnum * sizeof(Elf64_Phdr), file.size())) {
    return invalid("the image is truncated: its program headers lie beyond its end");
  }
  std::vector<Elf64_Phdr> headers(h.e_phnum);
  std::memcpy(headers.data(), file.data() + h.e_phoff, headers.size() * sizeof(Elf64_Phdr));
  return headers;
}

Expected<std::string> interpreter_name(std::span<const uint8_t> file, const Elf64_Phdr& p) {
  if (!within(p.p_offset, p.p_filesz, file.size()) || p.p_filesz < 2 ||
      p.p_filesz > kPathBytesMax || file[p.p_offset + p.p_filesz - 1] != 0) {
    return invalid("the image is dynamically linked, and its dynamic linker's name is malformed");
  }
  std::string name(reinterpret_cast<const char*>(file.data() + p.p_offset), p.p_filesz - 1);
  for (char c : name) {
    if (c < 0x20 || c > 0x7e) {
      return invalid("the image is dynamically linked, and its dynamic linker's name is malformed");
    }
  }
  return name;
}

uint8_t prot_of(uint32_t flags) {
  return static_cast<uint8_t>(((flags & PF_R) ? kProtRead : 0) | ((flags & PF_W) ? kProtWrite : 0) |
                              ((flags & PF_X) ? kProtExec : 0));
}

// Adds one PT_LOAD, or says what is wrong with it.
Expected<void> add_segment(std::span<const uint8_t> file, const Elf64_Phdr& p, uint64_t bias,
                           ElfImage& image) {
  if (p.p_memsz == 0) return {};
  if (p.p_filesz > p.p_memsz) return invalid("the image has a segment with more file than memory");
  if (!within(p.p_offset, p.p_filesz, file.size())) {
    return invalid(
        fmt::format("the image is truncated: a segment wants {} bytes from byte {} of {}",
                    p.p_filesz, p.p_offset, file.size()));
  }
  if (p.p_vaddr > kImageAddressMax || p.p_memsz > kImageAddressMax ||
      p.p_vaddr + bias < kImageAddressMin || p.p_vaddr + bias + p.p_memsz > kImageAddressMax) {
    return invalid(
        fmt::format("the image has a segment at 0x{:x} of 0x{:x} bytes; addresses from "
                    "0x{:x} to 0x{:x} are served",
                    p.p_vaddr, p.p_memsz, kImageAddressMin, kImageAddressMax));
  }
  Segment s{p.p_vaddr + bias, p.p_memsz, p.p_offset, p.p_filesz, prot_of(p.p_flags)};
  if (!image.segments.empty()) {
    const Segment& last = image.segments.back();
    if (s.address < last.address + last.memory_bytes) {
      return invalid("the image has segments that overlap or are out of order");
    }
  }
  image.segments.push_back(s);
  return {};
}

uint64_t load_bias(const Elf64_Ehdr& h, const std::vector<Elf64_Phdr>& headers, uint64_t pie_base) {
  if (h.e_type == ET_EXEC) return 0;
  uint64_t align = kPageBytes;
  for (const Elf64_Phdr& p : headers) {
    bool power = p.p_align != 0 && (p.p_align & (p.p_align - 1)) == 0;
    if (p.p_type == PT_LOAD && power && p.p_align <= kAlignMax) align = std::max(align, p.p_align);
  }
  return (pie_base + align - 1) & ~(align - 1);
}

uint64_t find_program_headers(const Elf64_Ehdr& h, const ElfImage& image) {
  for (const Segment& s : image.segments) {
    if (h.e_phoff >= s.file_offset &&
        within(h.e_phoff - s.file_offset, h.e_phnum * sizeof(Elf64_Phdr), s.file_bytes)) {
      return s.address + (h.e_phoff - s.file_offset);
    }
  }
  return 0;
}

}  // namespace

Expected<ElfImage> parse_elf(std::span<const uint8_t> file, uint64_t pie_base) {
  auto header = read_header(file);
  if (!header) return std::unexpected(header.error());
  auto headers = read_program_headers(file, *header);
  if (!headers) return std::unexpected(headers.error());

  ElfImage image;
  image.position_independent = header->e_type == ET_DYN;
  for (const Elf64_Phdr& p : *headers) {
    if (p.p_type != PT_INTERP) continue;
    auto name = interpreter_name(file, p);
    if (!name) return std::unexpected(name.error());
    image.interpreter = std::move(*name);
  }
  uint64_t bias = load_bias(*header, *headers, pie_base);
  for (const Elf64_Phdr& p : *headers) {
    if (p.p_type != PT_LOAD) continue;
    if (auto added = add_segment(file, p, bias, image); !added) {
      return std::unexpected(added.error());
    }
  }
  if (image.segments.empty()) return invalid("the image has nothing to load");

  image.low = image.segments.front().address & ~(kPageBytes - 1);
  const Segment& last = image.segments.back();
  image.high = (last.address + last.memory_bytes + kPageBytes - 1) & ~(kPageBytes - 1);
  bool executable = false;
  if (header->e_entry <= kImageAddressMax) {
    image.entry = header->e_entry + bias;
    for (const Segment& s : image.segments) {
      executable |= (s.prot & kProtExec) != 0 && image.entry >= s.address &&
                    image.entry - s.address < s.memory_bytes;
    }
  }
  if (!executable) {
    return invalid("the image's entry point is not in an executable segment; is it a library?");
  }
  image.program_headers = find_program_headers(*header, image);
  image.program_header_count = header->e_phnum;
  return image;
}

}  // namespace sluice::vmm
