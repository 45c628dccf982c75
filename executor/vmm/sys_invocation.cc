// The function protocol's descriptor (sdk/PROTOCOL.md): an invocation is read from it, an answer
// written to it. What frames hold is the broker's business; only their length is looked at here.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "executor/vmm/kernel.h"

namespace sluice::vmm {
namespace {

constexpr uint64_t kLengthBytes = 4;
constexpr uint64_t kDeadlineOffset = 8;  // in an invocation: u32 bytes, u16 version, u16 flags

}  // namespace

int64_t Kernel::read_invocation(uint64_t address, uint64_t bytes) {
  if (lacks_input(InputSource::kInvocation)) return 0;
  std::span<const uint8_t> frame = input_of(InputSource::kInvocation);
  uint64_t from = state_.invocation_offset;
  if (from >= frame.size()) {
    if (!frame.empty()) end_by_bad_answer("it asked for the next invocation before it answered");
    return 0;
  }
  uint64_t count = std::min<uint64_t>(bytes, frame.size() - from);
  uint8_t* at = space_.for_write(address, count);
  if (at == nullptr) return -EFAULT;
  std::memcpy(at, frame.data() + from, count);
  // The deadline is known only now that the call has begun.
  uint8_t deadline[sizeof io_.deadline_realtime_ns];
  std::memcpy(deadline, &io_.deadline_realtime_ns, sizeof deadline);
  for (uint64_t i = 0; i < sizeof deadline; i++) {
    uint64_t position = kDeadlineOffset + i;
    if (position >= from && position < from + count) at[position - from] = deadline[i];
  }
  state_.invocation_offset = from + count;
  return static_cast<int64_t>(count);
}

int64_t Kernel::write_answer(std::string_view bytes) {
  if (!io_.input || io_.source != InputSource::kInvocation) return -EPIPE;
  std::string& answer = io_.output;
  uint64_t limit = limits_.output_bytes;
  if (bytes.size() > limit - std::min<uint64_t>(limit, answer.size())) {
    ending_ = {Outcome::kOutputLimit, 0,
               fmt::format("the program's answer is longer than its output limit of {} bytes",
                           limits_.output_bytes)};
    return 0;
  }
  answer.append(bytes);
  if (answer.size() < kLengthBytes) return static_cast<int64_t>(bytes.size());
  uint32_t length;
  std::memcpy(&length, answer.data(), sizeof length);
  uint64_t whole = kLengthBytes + length;
  if (answer.size() == whole) {
    ending_ = Ending{};
  } else if (answer.size() > whole) {
    end_by_bad_answer(fmt::format("it wrote {} bytes, and its frame has {}", answer.size(), whole));
  } else if (whole > limit) {
    ending_ = {Outcome::kOutputLimit, 0,
               fmt::format("the program's answer of {} bytes is longer than its output limit of {}",
                           whole, limits_.output_bytes)};
  }
  return static_cast<int64_t>(bytes.size());
}

void Kernel::take_output_as_log() { write_log(std::exchange(io_.output, {})); }

void Kernel::end_by_bad_answer(std::string message) {
  ending_ = {Outcome::kBadAnswer, 0,
             "the program broke the function protocol: " + std::move(message)};
}

}  // namespace sluice::vmm
