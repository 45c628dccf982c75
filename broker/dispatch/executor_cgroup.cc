#include "broker/dispatch/executor_cgroup.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace sluice::broker {

namespace {

constexpr std::string_view kNamePrefix = "sluice-executor-";
constexpr int kEndWaitMs = 2000;

std::string read_file(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream{std::string(text)};
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool has(const std::vector<std::string>& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

// Files of a control group are there or not; none is ever made.
Expected<void> write_file(const std::string& path, const std::string& text) {
  int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  bool done = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int error = errno;
  if (fd >= 0) ::close(fd);
  if (done) return {};
  return fail(Code::kUnavailable, path + ": " + std::strerror(error));
}

// Whether whoever manages the machine has left this directory to us (systemd's Delegate=).
bool delegated(const std::string& directory) {
  for (const char* name : {"user.delegate", "trusted.delegate"}) {
    char value[2] = {};
    if (getxattr(directory.c_str(), name, value, sizeof value) == 1 && value[0] == '1') return true;
  }
  return false;
}

// Of version 2: the directory below which a group with this controller can be made. A group that
// has processes, as the broker's has, can not share a controller out; only the machine's first
// group, or one above that was left to us, can.
Expected<std::string> parent_for(const std::string& own, const std::string& controller) {
  auto shared = write_file(own + "/cgroup.subtree_control", "+" + controller);
  if (shared) return own;
  std::string above = std::filesystem::path(own).parent_path();
  if (delegated(above) && write_file(above + "/cgroup.subtree_control", "+" + controller)) {
    return above;
  }
  return fail(Code::kUnavailable,
              shared.error().message +
                  " (in a systemd unit: Delegate=memory pids, DelegateSubgroup=broker)");
}

// Groups of brokers that were killed.
void remove_leftovers(const std::string& parent) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    std::string name = entry.path().filename();
    if (!name.starts_with(kNamePrefix)) continue;
    pid_t broker = 0;
    const char* end = name.data() + name.size();
    auto parsed = std::from_chars(name.data() + kNamePrefix.size(), end, broker);
    if (parsed.ptr != end || broker <= 0) continue;
    if (kill(broker, 0) != 0 && errno == ESRCH) rmdir(entry.path().c_str());
  }
}

}  // namespace

Expected<CgroupPlace> find_cgroup(std::string_view mountinfo, std::string_view cgroups,
                                  std::string_view controller) {
  // ID:CONTROLLERS:PATH; version 2 has no controllers.
  std::string path, unified_path;
  bool in_version1 = false;
  for (const std::string& line : split(cgroups, '\n')) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string names = line.substr(first + 1, second - first - 1);
    if (names.empty()) unified_path = line.substr(second + 1);
    if (has(split(names, ','), controller)) {
      in_version1 = true;
      path = line.substr(second + 1);
    }
  }
  if (!in_version1) path = unified_path;
  // ID PARENT DEVICE ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
  for (const std::string& line : split(mountinfo, '\n')) {
    auto words = split(line, ' ');
    auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    bool fits = in_version1 ? dash[1] == "cgroup" && has(split(dash[3], ','), controller)
                            : dash[1] == "cgroup2";
    if (!fits || path.empty()) continue;
    // In a container the mount may start at the container's own group.
    const std::string& root = words[3];
    std::string rest = path;
    if (root != "/") {
      if (!path.starts_with(root)) continue;
      rest = path.substr(root.size());
      if (!rest.empty() && rest[0] != '/') continue;
    }
    // Outside of what this mount, or our namespace, shows.
    if (rest.find("/..") != std::string::npos) continue;
    while (rest.ends_with('/')) rest.pop_back();
    return CgroupPlace{words[4] + rest, !in_version1};
  }
  return fail(Code::kNotFound,
              "no hierarchy of control groups is mounted that has the controller " +
                  std::string(controller));
}

Expected<void> ExecutorCgroup::make(const Limits& limits) {
  auto memory = make_one("memory", "memory.limit_in_bytes", std::to_string(limits.memory_bytes));
  auto tasks = make_one("pids", "pids.max", std::to_string(limits.tasks));
  if (memory && tasks) return {};
  std::string what = !memory && !tasks ? "memory and threads" : !memory ? "memory" : "threads";
  return fail(Code::kUnavailable, "its " + what + " have no limit by a control group: " +
                                      (memory ? tasks.error().message : memory.error().message));
}

Expected<void> ExecutorCgroup::make_one(const char* controller, const char* limit_file,
                                        const std::string& limit) {
  auto own =
      find_cgroup(read_file("/proc/self/mountinfo"), read_file("/proc/self/cgroup"), controller);
  if (!own) return std::unexpected(own.error());
  std::string parent = own->directory;
  if (own->unified) {
    auto above = parent_for(own->directory, controller);
    if (!above) return std::unexpected(above.error());
    parent = *above;
    if (std::string_view(limit_file) == "memory.limit_in_bytes") limit_file = "memory.max";
  }
  remove_leftovers(parent);
  std::string directory = parent + "/" + std::string(kNamePrefix) + std::to_string(getpid());
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return fail(Code::kUnavailable, directory + ": " + std::strerror(errno));
  }
  if (!has(directories_, directory)) directories_.push_back(directory);
  return write_file(directory + "/" + limit_file, limit);
}

Expected<void> ExecutorCgroup::add(pid_t process) {
  for (const std::string& directory : directories_) {
    auto added = write_file(directory + "/cgroup.procs", std::to_string(process));
    if (!added) return added;
  }
  return {};
}

void ExecutorCgroup::remove(pid_t process) {
  if (directories_.empty()) return;
  if (process > 0) {
    // Nothing else waits for it here: the loop has ended or is about to.
    int fd = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
    pollfd ended = {fd, POLLIN, 0};
    if (fd >= 0) {
      poll(&ended, 1, kEndWaitMs);
      ::close(fd);
    }
  }
  for (const std::string& directory : directories_) rmdir(directory.c_str());
  directories_.clear();
}

}  // namespace sluice::broker
