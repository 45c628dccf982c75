#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "executor/contract/call.h"
#include "executor/process/wire.h"

namespace sluice::process {

// A program in its process, seen from the executor: it runs for one call and is gone with this
// object at the latest. Used on one thread. What the program sends is never believed beyond the
// limits: bytes of output and log are counted as they come, and nothing else is taken from it.
class Running {
 public:
  // Asks for a process and does not wait for it. `keeper` is borrowed for this call. Errors:
  // kUnavailable.
  static Expected<std::unique_ptr<Running>> start(int keeper, uint32_t watch,
                                                  const executor::Limits& limits);
  ~Running();

  // Waits until the program wants input or has ended, as long as an initialisation may take. False
  // when it took longer, and has been killed.
  bool wait_until_ready();
  // After that: hands over the input and waits for the end, of the program or of its answer.
  executor::CallResult call(std::span<const uint8_t> input);

  // The descriptor that it wants input from, kSeveral or kByName; none when it does not want any.
  std::optional<int> wants_input() const { return wants_input_; }
  bool has_ended() const { return ended_.has_value() || failed_.has_value(); }
  // Why there is no program: the sandbox could not be made, or the image can not be executed.
  const std::optional<Error>& failed() const { return failed_; }
  executor::Ending ending() const;
  // Of the program while it waits, with what the kernel keeps for it.
  uint64_t memory_bytes() const;

 private:
  Running(Fd control, uint32_t watch, const executor::Limits& limits)
      : control_(std::move(control)), watch_(watch), limits_(limits) {}

  // One wait for whatever comes; false when the deadline passed first.
  bool pump(int64_t deadline_ns);
  void read_control();
  void take_descriptors(std::vector<Fd> fds);
  bool read_stream(Fd& from, bool is_output);
  bool read_answer();
  void send_input();
  void keep_output(std::string_view bytes);
  void keep_log(std::string_view bytes);
  void drain();
  // Ends the program for this reason and waits until it is gone.
  void end_by(executor::Outcome outcome, std::string message);
  void kill();
  bool speaks_protocol() const { return watch_ == kWatchProtocol; }

  Fd control_, stdin_, stdout_, stderr_, protocol_;
  uint32_t watch_;
  executor::Limits limits_;
  bool in_call_ = false;
  std::optional<int> wants_input_;
  uint64_t memory_bytes_ = 0;
  std::optional<Ended> ended_;
  std::optional<Error> failed_;
  std::optional<executor::Ending> decided_;  // by us, before the program ended
  std::span<const uint8_t> input_;           // what is still to be sent
  bool answered_ = false;
  std::string output_, log_;
  bool log_cut_ = false;
};

}  // namespace sluice::process
