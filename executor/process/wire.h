#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/contract/call.h"

// What the executor, the spawner, a keeper and an init say to each other, over unix sockets of
// type SEQPACKET: one value a packet, with descriptors beside it. All of them are one program.
namespace sluice::process {

// A descriptor that is closed with its owner.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// Executor to spawner: make a keeper. Descriptors: the keeper's end of its socket, the config; then
// the image and the root file system as the flags say.
struct LoadRequest {
  uint32_t has_image = 0;
  uint32_t has_rootfs = 0;
};

// Which descriptor's first read, or what else, says that a program wants its input.
inline constexpr uint32_t kWatchStdin = 1;
inline constexpr uint32_t kWatchProtocol = 2;  // the program gets descriptor 3 and SLUICE_FD
inline constexpr uint32_t kWatchName = 4;      // that /dev/stdin is opened

// Executor to keeper: start a process. Descriptor: the init's end of its socket.
struct StartRequest {
  uint32_t watch = 0;
};

// Executor to init.
struct ControlRequest {
  enum Kind : uint32_t { kBegin, kKill } kind = kBegin;
  uint32_t cpu_ms = 0;  // kBegin; 0: no limit
};

enum class Cause : uint32_t { kItself, kKilled, kForbidden, kCpu };

struct Ended {
  Cause cause = Cause::kItself;
  int32_t wait_status = 0;
  uint64_t syscall = 0;  // kForbidden
  uint64_t rss_peak_bytes = 0;
  uint64_t refused_bytes = 0;  // a mapping that was too large
  uint32_t refused_thread = 0;
  uint32_t sent_signal = 0;  // it sent one itself
  uint32_t files_full = 0;   // the table of open files was full at the end
  uint32_t tmpfs_full = 0;
};

inline constexpr int64_t kSeveral = -1;  // it polls
inline constexpr int64_t kByName = -2;   // it opened /dev/stdin

// Keeper or init to executor.
struct Report {
  enum Kind : uint32_t {
    kPrepared,    // keeper: the image is ready
    kFailed,      // keeper, init: `code`, `text`
    kStarted,     // init: descriptors stdin, stdout, stderr, and the protocol's where watched
    kWantsInput,  // init: `value` is the descriptor, or one of the two below
    kEnded,       // init: `ended`
  } kind = kFailed;
  Code code = Code::kInternal;
  int64_t value = 0;
  Ended ended;
  char text[512] = {};
};

// One packet. Errors: kUnavailable when the other side is gone, kIo.
Expected<void> send_packet(int socket, const void* value, size_t bytes, std::span<const int> fds);
template <typename T>
Expected<void> send_value(int socket, const T& value, std::span<const int> fds = {}) {
  return send_packet(socket, &value, sizeof value, fds);
}
// False at the end of the stream, and for a packet of another size. Waits unless told not to.
bool receive_packet(int socket, void* value, size_t bytes, std::vector<Fd>& fds, int flags = 0);
template <typename T>
bool receive_value(int socket, T& value, std::vector<Fd>& fds, int flags = 0) {
  return receive_packet(socket, &value, sizeof value, fds, flags);
}
// Two ends of a connection. Errors: kUnavailable.
struct Pair {
  Fd ours, theirs;
};
Expected<Pair> make_pair(int type);

// What a keeper knows about its image.
struct Config {
  executor::Limits limits;
  std::string name;
  std::string image_path;
  std::vector<std::string> args;
  std::vector<std::string> env;
};
std::string encode(const Config& config);
std::optional<Config> decode(std::span<const char> bytes);

// A sealed memory file: nobody can change it any more. Errors: kUnavailable.
Expected<Fd> sealed_file(const char* name, std::span<const uint8_t> bytes);

}  // namespace sluice::process
