#include "executor/vmm/program.h"

#include <algorithm>
#include <cstring>

#include <elf.h>
#include <fmt/format.h>

#include "base/check.h"
#include "executor/vmm/random.h"

namespace sluice::vmm {
namespace {

void load_segments(const ElfImage& image, std::span<const uint8_t> file, const Layout& layout,
                   Guest& guest) {
  for (const Segment& s : image.segments) {
    uint64_t first = layout.page_of(s.address);
    uint64_t last = layout.page_of(s.address + s.memory_bytes - 1);
    guest.space().load_pages(first, last - first + 1, s.prot);
    if (s.file_bytes == 0) continue;
    uint8_t* to = guest.ram().writable(layout.ram + (s.address - layout.window), s.file_bytes);
    std::memcpy(to, file.data() + s.file_offset, s.file_bytes);
  }
}

// Fills the stack from its top downwards.
class StackWriter {
 public:
  StackWriter(const Layout& layout, Guest& guest)
      : layout_(layout), guest_(guest), top_(layout.window_end()) {}

  uint64_t push(std::span<const uint8_t> bytes) {
    top_ -= bytes.size();
    uint8_t* to = guest_.ram().writable(layout_.ram + (top_ - layout_.window), bytes.size());
    std::memcpy(to, bytes.data(), bytes.size());
    return top_;
  }
  uint64_t push(const std::string& text) {
    return push({reinterpret_cast<const uint8_t*>(text.c_str()), text.size() + 1});
  }
  void align(uint64_t bytes) { top_ &= ~(bytes - 1); }

 private:
  const Layout& layout_;
  Guest& guest_;
  uint64_t top_;
};

// Below the stack, where the program's own mappings will follow it.
Expected<ElfImage> place_linker(const Executable& program, const Layout& layout) {
  uint64_t bytes = program.linker.high - program.linker.low;
  uint64_t top = layout.address_of(layout.stack_low) - kStackGuardBytes;
  if (bytes > top - layout.window || top - bytes < program.image.high) {
    return fail(Code::kInvalid,
                "the image and its dynamic linker do not fit into its memory "
                "limit; raise the limit");
  }
  return parse_elf(program.linker_file, (top - bytes) & ~(kPageBytes - 1));
}

}  // namespace

Expected<CpuState> load_program(const Machine& machine, const Layout& layout,
                                const Executable& program, Guest& guest, uint64_t& random_address) {
  const ElfImage& image = program.image;
  uint64_t bytes = program.path.size();
  for (const auto& text : program.args) bytes += text.size() + 1 + sizeof(uint64_t);
  const std::string protocol_fd = fmt::format("SLUICE_FD={}", kInvocationFd);
  for (const auto& text : program.env) bytes += text.size() + 1 + sizeof(uint64_t);
  uint64_t bytes_max = std::min(kArgumentBytesMax, layout.stack_bytes() / 2);
  if (bytes > bytes_max) {
    return fail(Code::kInvalid, fmt::format("the arguments and the environment take {} bytes; the "
                                            "limit is {}",
                                            bytes, bytes_max));
  }
  load_segments(image, program.file, layout, guest);
  uint64_t linker_base = 0, entry = image.entry;
  if (!program.linker_file.empty()) {
    auto linker = place_linker(program, layout);
    if (!linker) return std::unexpected(linker.error());
    load_segments(*linker, program.linker_file, layout, guest);
    linker_base = linker->low;
    entry = linker->entry;
  }
  guest.space().set_break(image.high);
  guest.space().load_pages(layout.stack_low, layout.window_pages - layout.stack_low,
                           kProtRead | kProtWrite);

  StackWriter stack(layout, guest);
  uint64_t name = stack.push(program.path);
  uint64_t platform = stack.push("x86_64");
  std::vector<uint64_t> args, env;
  for (const auto& text : program.args) args.push_back(stack.push(text));
  for (const auto& text : program.env) env.push_back(stack.push(text));
  env.push_back(stack.push(protocol_fd));
  uint8_t random[16];
  fill_random(random);
  stack.align(16);
  random_address = stack.push(random);

  std::vector<uint64_t> words;
  words.push_back(args.size());
  words.insert(words.end(), args.begin(), args.end());
  words.push_back(0);
  words.insert(words.end(), env.begin(), env.end());
  words.push_back(0);
  const uint64_t auxiliary[] = {AT_PHDR,         image.program_headers,
                                AT_PHENT,        sizeof(Elf64_Phdr),
                                AT_PHNUM,        image.program_header_count,
                                AT_PAGESZ,       kPageBytes,
                                AT_BASE,         linker_base,
                                AT_FLAGS,        0,
                                AT_ENTRY,        image.entry,
                                AT_UID,          0,
                                AT_EUID,         0,
                                AT_GID,          0,
                                AT_EGID,         0,
                                AT_SECURE,       0,
                                AT_CLKTCK,       100,
                                AT_HWCAP,        machine.hwcap(),
                                AT_HWCAP2,       0,
                                AT_PLATFORM,     platform,
                                AT_RANDOM,       random_address,
                                AT_EXECFN,       name,
                                AT_SYSINFO_EHDR, kernel_address(kPageVdso),
                                AT_NULL,         0};
  words.insert(words.end(), std::begin(auxiliary), std::end(auxiliary));
  stack.align(16);
  if (words.size() % 2 != 0) words.push_back(0);  // the stack pointer is aligned to 16
  uint64_t rsp =
      stack.push({reinterpret_cast<const uint8_t*>(words.data()), words.size() * sizeof(uint64_t)});

  auto* data =
      reinterpret_cast<ResumeData*>(guest.ram().scratch(kResumeDataOffset, sizeof(ResumeData)));
  data->xsave = initial_xsave();
  data->rdx = 0;
  data->rax = 0;
  CpuState state{{}, guest.sregs()};
  state.regs.rsp = rsp;
  state.regs.rcx = entry;
  state.regs.r11 = kRflagsFixed | kRflagsIf;
  return state;
}

}  // namespace sluice::vmm
