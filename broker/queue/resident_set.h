#pragma once

#include <cstddef>
#include <list>

namespace sluice::broker {

class Backlog;

// The backlogs of a shard that hold much in RAM, and how much all messages of the process may take
// there. Beyond it they give memory back in turn: what they hold is on disk, or goes there.
//
// On the shard's thread.
class ResidentSet {
 public:
  explicit ResidentSet(size_t bytes_max) : bytes_max_(bytes_max) {}

  // Whether messages take more than they may. Messages count wherever they are: in windows, with
  // consumers, on their way to the disk.
  bool pressed() const;

  // A backlog that holds more than a little registers, and leaves when it does not any more.
  void add(Backlog* backlog);
  void remove(Backlog* backlog);

  // Makes some of them give memory back where it is needed.
  void turn_end();

 private:
  const size_t bytes_max_;
  std::list<Backlog*> backlogs_;  // whose turn it is first
};

}  // namespace sluice::broker
