#include "broker/disk_alarm.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/statvfs.h>

namespace sluice::broker {

namespace {

constexpr uint64_t kFreeMinLowestBytes = 256u << 20;
constexpr uint64_t kFreeMinHighestBytes = 1u << 30;

// How often to look: often where the limit could be reached within a second.
constexpr uint64_t kLookMs = 1000;
constexpr uint64_t kLookOftenMs = 100;
constexpr uint64_t kNearBytes = 2u << 30;

constexpr uint64_t kReclaimMs = 2000;

uint64_t mib(uint64_t bytes) { return bytes >> 20; }

}  // namespace

DiskAlarm::DiskAlarm(uv_loop_t* loop, std::string directory, uint64_t free_min_bytes, Events events)
    : loop_(loop),
      directory_(std::move(directory)),
      free_min_bytes_(free_min_bytes),
      events_(std::move(events)),
      timer_(loop, [this] {
        auto looked = look();
        if (looked) return;
        spdlog::error("{}", looked.error().message);
        timer_.start(kLookMs);
      }) {}

Expected<> DiskAlarm::look() {
  struct statvfs disk;
  if (statvfs(directory_.c_str(), &disk) != 0) {
    return fail(Code::kIo, fmt::format("cannot tell the free space of the data directory {}: {}",
                                       directory_, std::strerror(errno)));
  }
  if (free_min_bytes_ == 0) {
    free_min_bytes_ = std::clamp<uint64_t>(uint64_t{disk.f_blocks} * disk.f_frsize / 20,
                                           kFreeMinLowestBytes, kFreeMinHighestBytes);
  }
  uint64_t free = uint64_t{disk.f_bavail} * disk.f_frsize;
  free_bytes_ = free - std::min<uint64_t>(free, events_.unwritten_bytes());
  // Not off again at the first byte above the limit.
  bool on = free_bytes_ < free_min_bytes_ + (on_ ? free_min_bytes_ / 8 : 0);
  if (on != on_) {
    on_ = on;
    if (on) {
      spdlog::warn("disk alarm: {} MiB are free in {}, less than {} MiB; publishers are blocked",
                   mib(free_bytes_), directory_, mib(free_min_bytes_));
    } else {
      spdlog::warn("the disk alarm is over: {} MiB are free", mib(free_bytes_));
    }
    events_.changed();
  }
  if (on_ && (reclaimed_at_ms_ == 0 || uv_now(loop_) - reclaimed_at_ms_ >= kReclaimMs)) {
    reclaimed_at_ms_ = uv_now(loop_);
    events_.reclaim();
  }
  timer_.start(free_bytes_ < free_min_bytes_ + kNearBytes ? kLookOftenMs : kLookMs);
  return {};
}

std::string DiskAlarm::reason() const {
  return fmt::format("low on disk: {} MiB free, {} MiB wanted", mib(free_bytes_),
                     mib(free_min_bytes_));
}

}  // namespace sluice::broker
