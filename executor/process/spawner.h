#pragma once

#include <memory>
#include <optional>

#include <sys/types.h>

#include "base/error.h"
#include "executor/process/wire.h"

namespace sluice::process {

// The executor's hold on its spawner: a process with one thread and no rights that makes keepers,
// and they the sandboxes. Forking from the executor itself, with its threads and its jail, would be
// neither safe nor allowed. The spawner ends with the executor, and everything below with it.
//
// prepare() may be called on any thread. Outlives the backend that uses it.
class Spawner {
 public:
  // Who the spawner becomes where the executor is root.
  struct Options {
    uid_t uid = 65534;
    gid_t gid = 65534;
  };
  // Call it in main() before there are threads and before the executor's own jail; what the calling
  // process has open is closed in the spawner. Errors: kUnavailable.
  static Expected<std::unique_ptr<Spawner>> start(const Options& options);
  ~Spawner();

  // A keeper's socket, once its image is ready. Of image and root file system, either may be none.
  // Errors: kInvalid, kLimit for what is wrong with the image; kUnavailable, also when the spawner
  // is gone.
  Expected<Fd> prepare(const Config& config, std::span<const uint8_t> image,
                       std::span<const uint8_t> rootfs) const;
  // Whether it has ended: then nothing works here any more, and the executor should end too.
  bool is_gone() const;
  pid_t pid() const { return pid_; }

 private:
  Spawner(Fd socket, pid_t pid) : socket_(std::move(socket)), pid_(pid) {}

  Fd socket_;
  pid_t pid_;
};

}  // namespace sluice::process
