#include "broker/dispatch/executor_log.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "broker/dispatch/limits.h"

namespace sluice::broker {

using namespace dispatch;

namespace {

constexpr uint64_t kSecondMs = 1000;
constexpr std::string_view kItsName = "sluice-executor: ";

}  // namespace

ExecutorLog::ExecutorLog(uv_loop_t* loop)
    : go_on_(loop,
             [this] {
               lines_left_ = kExecutorLinesPerSecond;
               stream_->resume();
             }),
      lines_left_(kExecutorLinesPerSecond) {}

Expected<std::unique_ptr<ExecutorLog>> ExecutorLog::open(uv_loop_t* loop, net::FlushList& flushes,
                                                         int& write_fd) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(Code::kIo, std::strerror(errno));
  std::unique_ptr<ExecutorLog> log(new ExecutorLog(loop));
  auto stream = net::Stream::adopt_unix(loop, ends[0], flushes);
  if (!stream) {
    ::close(ends[0]);
    ::close(ends[1]);
    return std::unexpected(stream.error());
  }
  log->stream_ = std::move(*stream);
  log->stream_->start({.on_data = [self = log.get()](auto bytes) { return self->on_data(bytes); },
                       .on_end =
                           [self = log.get()](std::string_view) {
                             if (!self->line_.empty()) self->put_line();
                           },
                       .on_drained = nullptr});
  write_fd = ends[1];
  return log;
}

size_t ExecutorLog::on_data(std::span<const uint8_t> bytes) {
  for (size_t taken = 0; taken < bytes.size(); taken++) {
    if (lines_left_ == 0) {
      stream_->pause();
      go_on_.start(kSecondMs);
      return taken;
    }
    uint8_t byte = bytes[taken];
    if (byte != '\n') line_ += byte >= ' ' && byte < 0x7f ? static_cast<char>(byte) : '?';
    if (byte == '\n' || line_.size() == kExecutorLineMaxBytes) put_line();
  }
  return bytes.size();
}

void ExecutorLog::put_line() {
  std::string_view text = line_;
  if (text.starts_with(kItsName)) text.remove_prefix(kItsName.size());
  spdlog::warn("the executor says: {}", text);
  line_.clear();
  lines_left_--;
}

}  // namespace sluice::broker
