#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "storage/store.h"

namespace sluice::broker {

// Who is next in the message groups of one backlog. A group is held by one of its messages: the one
// that is out, or that waits in front of the queue. Those behind it are passed over while others
// are looked for, and wait here: the first as sequences, the rest as a count that the store's index
// of groups (storage/FORMAT.md) resolves when it is their turn.
//
// RAM: for each group that is held about 200 bytes and at most kWaitingKnownMax sequences. A group
// is first held when one of its messages is taken and nothing waits in front, so there are no more
// of them than messages that were out, or given back, at one time. Nothing of it outlives a
// restart: then nobody holds a group.
//
// On the shard's thread.
class Groups {
 public:
  using Sequence = storage::Sequence;
  using Group = uint64_t;

  bool held(Group group) const { return groups_.contains(group); }
  // Whether this message is the one that holds its group.
  bool holds(Group group, Sequence sequence) const;
  void hold(Group group, Sequence sequence);
  // Whether this message of the group, one that was met, was passed over and still waits.
  bool waits(Group group, Sequence sequence) const;

  // A message of a held group is passed over; they come in order. Only its sequence may be kept
  // where it is not `committed`, as the index knows what is committed only; false where there is no
  // room for that: it has to be waited for.
  bool pass_over(Group group, Sequence sequence, bool committed);

  // Of a group, the sequences that only the index knows, where its first one is among them.
  struct Unknown {
    storage::SequenceRange range;
    uint64_t count;
  };
  std::optional<Unknown> unknown_first(Group group) const;
  // What the index says, the first of them. None where it can not be read: they are given up.
  void known(Group group, const std::vector<Sequence>& sequences);

  // The holder is done with: the next one of its group holds it. Nothing where there is none: then
  // nobody does.
  std::optional<Sequence> next(Group group);

  // The oldest message that was passed over, and its group.
  std::optional<std::pair<Sequence, Group>> oldest() const;
  // Takes that one out.
  void drop_oldest();

  uint64_t waiting_count() const { return waiting_count_; }
  // Nobody waits any more; who holds a group still does.
  void clear_waiting();

 private:
  struct Held {
    Sequence holder;
    std::deque<Sequence> first;  // waiting; empty only while none waits or the index is asked
    storage::SequenceRange rest = {0, 0};
    uint64_t rest_count = 0;
  };
  void pop_first(Group group, Held& held);

  std::unordered_map<Group, Held> groups_;
  std::set<std::pair<Sequence, Group>> firsts_;  // of each group in which some wait
  uint64_t waiting_count_ = 0;
};

}  // namespace sluice::broker
