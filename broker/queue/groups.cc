#include "broker/queue/groups.h"

#include <utility>

#include "base/check.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

bool Groups::holds(Group group, Sequence sequence) const {
  auto found = groups_.find(group);
  return found != groups_.end() && found->second.holder == sequence;
}

bool Groups::waits(Group group, Sequence sequence) const {
  auto found = groups_.find(group);
  if (found == groups_.end() || found->second.first.empty()) return false;
  return sequence >= found->second.first.front();
}

void Groups::hold(Group group, Sequence sequence) {
  bool fresh = groups_.try_emplace(group, Held{.holder = sequence}).second;
  CHECK(fresh);
}

bool Groups::pass_over(Group group, Sequence sequence, bool committed) {
  Held& held = groups_.at(group);
  if (held.rest_count == 0 && (held.first.size() < kWaitingKnownMax || !committed)) {
    if (held.first.empty()) firsts_.emplace(sequence, group);
    held.first.push_back(sequence);
  } else {
    if (!committed) return false;
    if (held.rest_count++ == 0) held.rest.first = sequence;
    held.rest.end = sequence + 1;
  }
  ++waiting_count_;
  return true;
}

std::optional<Groups::Unknown> Groups::unknown_first(Group group) const {
  auto found = groups_.find(group);
  if (found == groups_.end()) return {};
  const Held& held = found->second;
  if (!held.first.empty() || held.rest_count == 0) return {};
  return Unknown{held.rest, held.rest_count};
}

void Groups::known(Group group, const std::vector<Sequence>& sequences) {
  Held& held = groups_.at(group);
  CHECK(held.first.empty() && sequences.size() <= held.rest_count);
  if (sequences.empty()) {
    waiting_count_ -= std::exchange(held.rest_count, 0);
    return;
  }
  held.first.assign(sequences.begin(), sequences.end());
  held.rest_count -= sequences.size();
  held.rest.first = sequences.back() + 1;
  firsts_.emplace(sequences.front(), group);
}

void Groups::pop_first(Group group, Held& held) {
  firsts_.erase({held.first.front(), group});
  held.first.pop_front();
  --waiting_count_;
  if (!held.first.empty()) firsts_.emplace(held.first.front(), group);
}

std::optional<Groups::Sequence> Groups::next(Group group) {
  auto found = groups_.find(group);
  Held& held = found->second;
  if (held.first.empty()) {
    CHECK(held.rest_count == 0);
    groups_.erase(found);
    return {};
  }
  held.holder = held.first.front();
  pop_first(group, held);
  return held.holder;
}

std::optional<std::pair<Groups::Sequence, Groups::Group>> Groups::oldest() const {
  if (firsts_.empty()) return {};
  return *firsts_.begin();
}

void Groups::drop_oldest() {
  Group group = firsts_.begin()->second;
  pop_first(group, groups_.at(group));
}

void Groups::clear_waiting() {
  firsts_.clear();
  waiting_count_ = 0;
  for (auto& [group, held] : groups_) held = {.holder = held.holder};
}

}  // namespace sluice::broker
