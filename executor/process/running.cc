#include "executor/process/running.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "executor/process/ending.h"
#include "executor/process/limits.h"

namespace sluice::process {
namespace {

using executor::CallResult;
using executor::Ending;
using executor::Outcome;

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kAnswerHeaderBytes = 4;
constexpr std::string_view kCutMark = "\n[log cut here: it reached its limit]\n";

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

int64_t after_ms(uint32_t ms) { return now_ns() + ms * 1'000'000ll; }

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

Expected<std::unique_ptr<Running>> Running::start(int keeper, uint32_t watch,
                                                  const executor::Limits& limits) {
  auto pair = make_pair(SOCK_SEQPACKET);
  if (!pair) return std::unexpected(pair.error());
  int theirs = pair->theirs.get();
  if (auto sent = send_value(keeper, StartRequest{watch}, {&theirs, 1}); !sent) {
    return fail(Code::kUnavailable, "the image's process is gone; " + sent.error().message);
  }
  return std::unique_ptr<Running>(new Running(std::move(pair->ours), watch, limits));
}

Running::~Running() {
  if (!has_ended()) kill();
}

bool Running::wait_until_ready() {
  int64_t deadline_ns = now_ns() + kStartNs;
  bool started = false;
  while (!wants_input_ && !has_ended() && !decided_) {
    if (!started && stdin_) {
      // The initialisation's time begins with the program.
      started = true;
      deadline_ns = after_ms(limits_.timeout_ms);
    }
    if (pump(deadline_ns)) continue;
    if (!started) {
      failed_ = Error{Code::kUnavailable,
                      fmt::format("no process was started within {} seconds; is the machine "
                                  "overloaded?",
                                  kStartNs / 1'000'000'000)};
      control_.reset();
      return false;
    }
    end_by(Outcome::kTimeout,
           fmt::format("the program ran longer than its timeout of {} ms", limits_.timeout_ms));
    return false;
  }
  return true;
}

CallResult Running::call(std::span<const uint8_t> input) {
  int64_t start_ns = now_ns(), deadline_ns = after_ms(limits_.timeout_ms);
  in_call_ = true;
  input_ = input;
  if (limits_.cpu_ms != 0 && !has_ended()) {
    (void)send_value(control_.get(), ControlRequest{ControlRequest::kBegin, limits_.cpu_ms});
  }
  if (stdin_) send_input();
  while (!has_ended() && !answered_ && !decided_) {
    if (pump(deadline_ns)) continue;
    end_by(Outcome::kTimeout,
           fmt::format("the program ran longer than its timeout of {} ms", limits_.timeout_ms));
  }
  if (!has_ended()) kill();
  drain();
  CallResult result;
  result.ending = ending();
  result.output = std::move(output_);
  result.log = std::move(log_);
  if (speaks_protocol() && !answered_) result.output.clear();
  result.run_us =
      static_cast<uint32_t>(std::min<int64_t>((now_ns() - start_ns) / 1000, UINT32_MAX));
  return result;
}

Ending Running::ending() const {
  if (decided_) return *decided_;
  if (answered_) return {};
  if (failed_) {
    bool image = failed_->code == Code::kInvalid;
    return {image ? Outcome::kBadImage : Outcome::kUnavailable, 0, failed_->message};
  }
  if (!ended_) return {Outcome::kInternal, 0, "the program's end was not seen"};
  Ending ending = ending_of(*ended_, limits_);
  if (speaks_protocol() && in_call_ &&
      (ending.outcome == Outcome::kOk || ending.outcome == Outcome::kExitStatus)) {
    std::string how = ending.message.empty() ? "the program ended" : ending.message;
    return {Outcome::kBadAnswer, ending.exit_status, how + " without an answer"};
  }
  return ending;
}

uint64_t Running::memory_bytes() const { return memory_bytes_ + kKernelBytesPerProcess; }

bool Running::pump(int64_t deadline_ns) {
  int64_t left_ns = deadline_ns - now_ns();
  if (left_ns <= 0) return false;
  bool sending = in_call_ && !input_.empty();
  Fd& input_to = speaks_protocol() ? protocol_ : stdin_;
  short protocol_events = POLLIN;
  if (sending && speaks_protocol()) protocol_events |= POLLOUT;
  pollfd polled[] = {{control_.get(), POLLIN, 0},
                     {stdout_.get(), POLLIN, 0},
                     {stderr_.get(), POLLIN, 0},
                     {speaks_protocol() ? protocol_.get() : -1, protocol_events, 0},
                     {sending && !speaks_protocol() ? stdin_.get() : -1, POLLOUT, 0}};
  timespec wait{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
  int ready = ppoll(polled, std::size(polled), &wait, nullptr);
  if (ready < 0) return errno == EINTR;
  if (ready == 0) return false;
  if (polled[1].revents != 0) read_stream(stdout_, !speaks_protocol());
  if (polled[2].revents != 0) read_stream(stderr_, false);
  if (polled[3].revents & (POLLIN | POLLHUP | POLLERR)) read_answer();
  if (input_to && ((polled[3].revents & POLLOUT) || polled[4].revents != 0)) send_input();
  if (polled[0].revents != 0) read_control();
  return true;
}

void Running::read_control() {
  Report report;
  std::vector<Fd> fds;
  if (!receive_value(control_.get(), report, fds)) {
    failed_ = Error{Code::kUnavailable, "the sandbox's process was killed from outside"};
    control_.reset();
    return;
  }
  switch (report.kind) {
    case Report::kStarted:
      take_descriptors(std::move(fds));
      break;
    case Report::kWantsInput:
      wants_input_ = static_cast<int>(report.value);
      memory_bytes_ = report.ended.rss_peak_bytes;
      break;
    case Report::kEnded:
      ended_ = report.ended;
      break;
    case Report::kPrepared:
    case Report::kFailed:
      report.text[sizeof report.text - 1] = 0;
      failed_ = Error{report.code, report.text};
      break;
  }
}

void Running::take_descriptors(std::vector<Fd> fds) {
  if (fds.size() != (watch_ & kWatchProtocol ? 4u : 3u)) {
    failed_ = Error{Code::kInternal, "the sandbox sent other descriptors than agreed"};
    return;
  }
  stdin_ = std::move(fds[0]);
  stdout_ = std::move(fds[1]);
  stderr_ = std::move(fds[2]);
  if (fds.size() == 4) protocol_ = std::move(fds[3]);
}

// One read. False when there is nothing more for now.
bool Running::read_stream(Fd& from, bool is_output) {
  char buffer[kReadBytes];
  ssize_t got = read(from.get(), buffer, sizeof buffer);
  if (got < 0 && would_block()) return false;
  if (got <= 0) {
    from.reset();
    return false;
  }
  std::string_view bytes(buffer, static_cast<size_t>(got));
  if (is_output) {
    keep_output(bytes);
  } else {
    keep_log(bytes);
  }
  return true;
}

void Running::keep_output(std::string_view bytes) {
  size_t room = limits_.output_bytes - output_.size();
  output_.append(bytes.substr(0, room));
  if (bytes.size() > room && !decided_) {
    decided_ =
        Ending{Outcome::kOutputLimit, 0,
               fmt::format("the program wrote more than its output limit of {} bytes to stdout",
                           limits_.output_bytes)};
  }
}

void Running::keep_log(std::string_view bytes) {
  if (log_cut_) return;
  size_t room = limits_.log_bytes - log_.size();
  log_.append(bytes.substr(0, room));
  if (bytes.size() > room) {
    log_.append(kCutMark);
    log_cut_ = true;
  }
}

// The frame's length is checked as soon as it is there; only so many bytes are ever read.
bool Running::read_answer() {
  uint32_t body = 0;
  size_t wanted = kAnswerHeaderBytes;
  if (output_.size() >= kAnswerHeaderBytes) {
    std::memcpy(&body, output_.data(), sizeof body);
    wanted += body;
  }
  char buffer[kReadBytes];
  ssize_t got = read(protocol_.get(), buffer, std::min(sizeof buffer, wanted - output_.size()));
  if (got < 0 && would_block()) return false;
  if (got <= 0) {
    protocol_.reset();
    return false;
  }
  if (!in_call_) {
    decided_ = Ending{Outcome::kBadAnswer, 0, "the program wrote an answer before it was called"};
    return false;
  }
  output_.append(buffer, static_cast<size_t>(got));
  if (output_.size() < kAnswerHeaderBytes) return true;
  std::memcpy(&body, output_.data(), sizeof body);
  if (body + kAnswerHeaderBytes > limits_.output_bytes) {
    decided_ = Ending{Outcome::kOutputLimit, 0,
                      fmt::format("the program's answer of {} bytes is longer than its output "
                                  "limit of {} bytes",
                                  body + kAnswerHeaderBytes, limits_.output_bytes)};
    output_.clear();
    return false;
  }
  answered_ = output_.size() == body + kAnswerHeaderBytes;
  return true;
}

void Running::send_input() {
  Fd& to = speaks_protocol() ? protocol_ : stdin_;
  while (to && !input_.empty()) {
    ssize_t put = speaks_protocol()
                      ? send(to.get(), input_.data(), input_.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
                      : write(to.get(), input_.data(), input_.size());
    if (put < 0 && would_block()) return;
    if (put <= 0) {
      // It closed its side; what it does without the rest is its business.
      input_ = {};
      break;
    }
    input_ = input_.subspan(static_cast<size_t>(put));
  }
  // The end of stdin. What speaks the protocol has none.
  if (input_.empty()) stdin_.reset();
}

// What a program wrote before its end is in the pipes.
void Running::drain() {
  while (!decided_ && stdout_ && read_stream(stdout_, !speaks_protocol())) {
  }
  while (!log_cut_ && stderr_ && read_stream(stderr_, false)) {
  }
  while (speaks_protocol() && !decided_ && !answered_ && protocol_ && read_answer()) {
  }
}

void Running::end_by(Outcome outcome, std::string message) {
  if (!decided_) decided_ = Ending{outcome, 0, std::move(message)};
  kill();
}

void Running::kill() {
  if (control_) (void)send_value(control_.get(), ControlRequest{ControlRequest::kKill, 0});
  int64_t deadline_ns = now_ns() + kKillNs;
  while (!has_ended()) {
    pollfd polled{control_.get(), POLLIN, 0};
    int64_t left_ms = (deadline_ns - now_ns()) / 1'000'000;
    if (left_ms <= 0 || (poll(&polled, 1, static_cast<int>(left_ms)) < 0 && errno != EINTR)) break;
    if (polled.revents != 0) read_control();
  }
  control_.reset();
}

}  // namespace sluice::process
