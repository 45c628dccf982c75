#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "broker/dispatch/limits.h"

namespace sluice::broker {

// A call that its function's owner may want to see: it failed, a record of it did, or it logged.
struct CallLogEntry {
  uint64_t id = 0;  // counts up for the function, from 1
  int64_t time_ms = 0;
  uint32_t version = 0;
  std::string source;  // "invoke" or "subscription NAME"
  uint32_t attempt = 1;
  std::string outcome;  // CallResult::outcome_name()
  std::string message;
  std::string log;
};

// The newest such calls of a function, in RAM: gone at the broker's end. On the shard's thread.
class CallLog {
 public:
  void add(CallLogEntry entry) {
    entry.id = ++last_id_;
    if (entry.log.size() > dispatch::kLogEntryMaxBytes) {
      entry.log.erase(0, entry.log.size() - dispatch::kLogEntryMaxBytes);
    }
    entries_.push_back(std::move(entry));
    if (entries_.size() > dispatch::kLogEntriesMax) entries_.pop_front();
    for (auto& waiter : std::exchange(waiters_, {})) waiter();
  }

  std::vector<CallLogEntry> after(uint64_t id) const {
    std::vector<CallLogEntry> found;
    for (const CallLogEntry& entry : entries_) {
      if (entry.id > id) found.push_back(entry);
    }
    return found;
  }

  // Called once, at the next entry.
  void when_added(std::function<void()> callback) { waiters_.push_back(std::move(callback)); }

 private:
  uint64_t last_id_ = 0;
  std::deque<CallLogEntry> entries_;
  std::vector<std::function<void()>> waiters_;
};

}  // namespace sluice::broker
