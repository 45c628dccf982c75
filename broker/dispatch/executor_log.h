#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include <uv.h>

#include "base/error.h"
#include "broker/net/handles.h"
#include "broker/net/stream.h"

namespace sluice::broker {

// What an executor writes to its stdout and stderr, as lines of the broker's log. A pipe, not the
// broker's own stderr: that may be a terminal or a file, which an executor in a program's hands
// could read and cut. On the shard's thread.
//
// Lines are cut at kExecutorLineMaxBytes, what is not printable ASCII becomes '?', and no more than
// kExecutorLinesPerSecond are read: beyond that the executor waits, nothing is lost.
class ExecutorLog {
 public:
  // `write_fd` receives the end to give to the executor; the caller closes it. Errors: kIo.
  static Expected<std::unique_ptr<ExecutorLog>> open(uv_loop_t* loop, net::FlushList& flushes,
                                                     int& write_fd);

 private:
  explicit ExecutorLog(uv_loop_t* loop);
  size_t on_data(std::span<const uint8_t> bytes);
  void put_line();

  std::unique_ptr<net::Stream> stream_;
  net::Timer go_on_;
  std::string line_;
  unsigned lines_left_;  // in this second
};

}  // namespace sluice::broker
