#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/error.h"

namespace sluice::broker {

// A directory in a hierarchy of control groups.
struct CgroupPlace {
  std::string directory;
  bool unified = false;  // version 2

  bool operator==(const CgroupPlace&) const = default;
};

// Where the process whose /proc/PID/mountinfo and /proc/PID/cgroup these are is in the hierarchy of
// a controller ("memory"). A version 2 hierarchy is the answer where no version 1 hierarchy has it;
// whether it offers the controller its files tell. Errors: kNotFound.
Expected<CgroupPlace> find_cgroup(std::string_view mountinfo, std::string_view cgroups,
                                  std::string_view controller);

// A control group below the broker's own, for its executor: what the executor takes of memory and
// of threads has a limit that no fault of it gets around, and running into that ends the executor
// and not the broker. Version 1 and version 2.
class ExecutorCgroup {
 public:
  struct Limits {
    uint64_t memory_bytes;
    uint32_t tasks;
  };

  ExecutorCgroup() = default;
  ~ExecutorCgroup() { remove(); }
  ExecutorCgroup(const ExecutorCgroup&) = delete;
  ExecutorCgroup& operator=(const ExecutorCgroup&) = delete;

  // Makes it, and removes those that killed brokers left. Errors: kUnavailable, with what is not
  // limited and why; what could be had is there all the same.
  Expected<void> make(const Limits& limits);
  // Errors: kUnavailable.
  Expected<void> add(pid_t process);
  // Takes it away, once `process` has ended (it was killed), for which it waits two seconds at
  // most.
  void remove(pid_t process = 0);

 private:
  Expected<void> make_one(const char* controller, const char* limit_file, const std::string& limit);

  std::vector<std::string> directories_;  // one, or one a controller
};

}  // namespace sluice::broker
