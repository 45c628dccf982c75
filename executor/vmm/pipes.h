#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::vmm {

// What threads of one program wake each other with: pipes, event counters, and epoll's lists. A
// value, part of the snapshot. Descriptors name them by their number in it.
struct Pipes {
  struct Pipe {
    std::string data;
    uint32_t readers = 0, writers = 0;  // open descriptions; with neither the entry is free
  };
  struct Event {
    bool used = false;
    bool semaphore = false;
    uint64_t count = 0;
  };
  struct Watch {
    uint64_t fd;
    uint32_t events;
    uint64_t data;
  };
  struct Epoll {
    bool used = false;
    std::vector<Watch> watches;
  };

  std::vector<Pipe> pipes;
  std::vector<Event> events;
  std::vector<Epoll> epolls;

  // The number of a free entry, made where there is none.
  template <typename Entry, typename IsFree>
  static uint32_t take(std::vector<Entry>& entries, IsFree is_free) {
    for (uint32_t i = 0; i < entries.size(); i++) {
      if (is_free(entries[i])) return i;
    }
    entries.emplace_back();
    return static_cast<uint32_t>(entries.size() - 1);
  }
};

}  // namespace sluice::vmm
