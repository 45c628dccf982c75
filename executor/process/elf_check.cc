#include "executor/process/elf_check.h"

#include <algorithm>
#include <cstring>

#include <elf.h>
#include <fmt/format.h>

#include "executor/vmm/limits.h"

namespace sluice::process {
namespace {

std::unexpected<Error> invalid(std::string message) {
  return fail(Code::kInvalid, std::move(message));
}

Expected<Elf64_Ehdr> check_header(std::span<const uint8_t> file) {
  if (file.size() > vmm::kImageBytesMax) {
    return invalid(
        fmt::format("the image has {} bytes; the limit is {}", file.size(), vmm::kImageBytesMax));
  }
  if (file.size() >= 2 && file[0] == '#' && file[1] == '!') {
    return invalid(
        "the image is a script, not an ELF executable; run its interpreter from a root "
        "file system");
  }
  Elf64_Ehdr h;
  if (file.size() < sizeof h) return invalid("the image is no ELF executable: it is too short");
  std::memcpy(&h, file.data(), sizeof h);
  if (std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
    return invalid("the image is no ELF executable");
  if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64) {
    return invalid(
        fmt::format("the image is for another processor (ELF machine {}); build it for "
                    "x86-64",
                    h.e_machine));
  }
  if (h.e_type != ET_EXEC && h.e_type != ET_DYN) {
    return invalid(fmt::format("the image is no executable (ELF type {})", h.e_type));
  }
  if (h.e_phnum == 0 || h.e_phnum > vmm::kProgramHeadersMax ||
      h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phoff > file.size() ||
      h.e_phnum * sizeof(Elf64_Phdr) > file.size() - h.e_phoff) {
    return invalid("the image's program headers do not lie in it");
  }
  return h;
}

}  // namespace

Expected<void> check_elf(std::span<const uint8_t> file, bool has_rootfs, uint64_t memory_bytes,
                         uint64_t stack_bytes) {
  auto h = check_header(file);
  if (!h) return std::unexpected(h.error());
  uint64_t low = UINT64_MAX, high = 0;
  for (unsigned i = 0; i < h->e_phnum; i++) {
    Elf64_Phdr p;
    std::memcpy(&p, file.data() + h->e_phoff + i * sizeof p, sizeof p);
    if (p.p_offset > file.size() || p.p_filesz > file.size() - p.p_offset) {
      if (p.p_type != PT_LOAD && p.p_type != PT_INTERP) continue;
      return invalid(
          fmt::format("the image is truncated: a segment wants {} bytes from byte {} of "
                      "{}",
                      p.p_filesz, p.p_offset, file.size()));
    }
    if (p.p_type == PT_INTERP && !has_rootfs) {
      std::string name(reinterpret_cast<const char*>(file.data()) + p.p_offset,
                       std::min<uint64_t>(p.p_filesz, 256));
      return invalid(
          fmt::format("the image is dynamically linked (it wants {}); link it with "
                      "-static, or give it a root file system",
                      name.c_str()));
    }
    if (p.p_type != PT_LOAD) continue;
    if (p.p_memsz > vmm::kImageAddressMax || p.p_vaddr > vmm::kImageAddressMax) {
      return invalid("the image has a segment at an address that can not be served");
    }
    low = std::min(low, p.p_vaddr);
    high = std::max(high, p.p_vaddr + p.p_memsz);
  }
  if (high == 0) return invalid("the image has nothing to load");
  if (high - low + stack_bytes > memory_bytes) {
    return invalid(
        fmt::format("the image takes {} bytes of address space and its stack {}, more "
                    "than its memory limit of {}; raise the limit",
                    high - low, stack_bytes, memory_bytes));
  }
  return {};
}

}  // namespace sluice::process
