// How a backlog passes over messages whose group is held, and finds them again.
#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "broker/queue/backlog.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

using storage::Sequence;
using storage::SequenceRange;

// From here on the backlog knows what is out by name: where a group is passed over, what is
// consumed around it would be too many ranges to remember.
void Backlog::begin_groups() {
  if (grouped_) return;
  grouped_ = std::make_unique<Grouped>();
  SequenceRange gap = consumed_.first_gap(consumed_.watermark(), position_);
  while (gap.first < gap.end) {
    for (Sequence sequence = gap.first; sequence < gap.end; ++sequence) {
      if (!returned_.contains(sequence)) grouped_->out.insert(sequence);
    }
    gap = consumed_.first_gap(gap.end, position_);
  }
}

bool Backlog::may_take(const Entry& entry) {
  if (entry.group == 0) return true;
  begin_groups();
  return !grouped_->groups.held(entry.group);
}

// False where that has to wait for a commit.
bool Backlog::pass_over_head() {
  Entry& front = head_.entries.front();
  if (!front.stored) store_now(front);
  bool committed = journal_.committed(front.slot);
  bool can_keep = committed || room_to_keep(front.record_bytes);
  if (!can_keep || !grouped_->groups.pass_over(front.group, front.sequence, committed)) {
    if (!std::exchange(grouped_->waiting_commit, true)) {
      // Those behind it that will be passed over, too: one commit for all of them.
      for (Entry& entry : head_.entries) {
        if (!entry.stored && entry.group != 0 && grouped_->groups.held(entry.group)) {
          store_now(entry);
        }
      }
      journal_.when_durable([weak = weak_from_this()] {
        auto self = weak.lock();
        if (self == nullptr || self->dropped_) return;
        self->grouped_->waiting_commit = false;
        self->arrived_();
      });
    }
    return false;
  }
  Entry entry = pop_head();
  if (!committed || grouped_->kept_bytes + entry.record_bytes <= kept_bytes_max()) {
    grouped_->kept_bytes += entry.record_bytes;
    Sequence sequence = entry.sequence;
    grouped_->kept.emplace_hint(grouped_->kept.end(), sequence, std::move(entry));
  }
  update_residence();
  return true;
}

size_t Backlog::kept_bytes_max() const { return std::min(kPassedOverBytes, window_bytes_max()); }

bool Backlog::room_to_keep(size_t record_bytes) {
  size_t bytes_max = kept_bytes_max();
  if (grouped_->kept_bytes + record_bytes > bytes_max) forget_kept(bytes_max / 2);
  // One that is larger than the room is kept alone.
  return grouped_->kept.empty() || grouped_->kept_bytes + record_bytes <= bytes_max;
}

// What is committed can be read again.
void Backlog::forget_kept(size_t bytes_max) {
  auto& kept = grouped_->kept;
  for (auto at = kept.end(); at != kept.begin() && grouped_->kept_bytes > bytes_max;) {
    --at;
    if (!journal_.committed(at->second.slot)) continue;
    grouped_->kept_bytes -= at->second.record_bytes;
    at = kept.erase(at);
  }
}

// A message that waited for its group; without its record where that is on disk only.
Entry Backlog::passed_over(Sequence sequence, uint64_t group) {
  if (auto kept = grouped_->kept.extract(sequence)) {
    grouped_->kept_bytes -= kept.mapped().record_bytes;
    return std::move(kept.mapped());
  }
  Entry entry;
  entry.sequence = sequence;
  entry.group = group;
  entry.priority = priority_;
  entry.redelivered = sequence < recovered_delivered_;
  entry.stored = true;
  return entry;
}

void Backlog::ask_index(uint64_t group) {
  auto unknown = grouped_->groups.unknown_first(group);
  if (!unknown) return;
  auto found = journal_.group_now(id_, group, unknown->range,
                                  std::min<uint64_t>(unknown->count, kWaitingKnownMax));
  if (found && found->empty()) {
    found = fail(Code::kCorrupt, fmt::format("the store lacks {} messages of a group in queue {}",
                                             unknown->count, id_));
  }
  if (!found) {
    journal_.fail_reading(found.error());
    found->clear();
  }
  grouped_->groups.known(group, *found);
}

// The message is done with: where it held its group, the next one does, and may be taken.
bool Backlog::free_group(const Entry& entry) {
  if (entry.group == 0 || !grouped_->groups.holds(entry.group, entry.sequence)) return false;
  if (auto next = grouped_->groups.next(entry.group)) {
    ask_index(entry.group);
    returned_.emplace(*next, passed_over(*next, entry.group));
  }
  return true;
}

Sequence Backlog::lowest_unconsumed() const {
  Sequence lowest = position_;
  if (!returned_.empty()) lowest = std::min(lowest, returned_.begin()->first);
  if (!grouped_->out.empty()) lowest = std::min(lowest, *grouped_->out.begin());
  if (auto oldest = grouped_->groups.oldest()) lowest = std::min(lowest, oldest->first);
  return lowest;
}

bool Backlog::oldest_is_resident() {
  auto waiting = oldest_passed_over();
  if (waiting) return grouped_->kept.contains(waiting->first);
  if (!returned_.empty()) return returned_.begin()->second.record != nullptr;
  return head_is_resident();
}

// Where it is the oldest of all.
std::optional<std::pair<Sequence, uint64_t>> Backlog::oldest_passed_over() const {
  if (!grouped_) return {};
  auto waiting = grouped_->groups.oldest();
  if (waiting && !returned_.empty() && returned_.begin()->first < waiting->first) return {};
  return waiting;
}

std::optional<Entry> Backlog::pop_oldest() {
  Entry entry;
  if (auto waiting = oldest_passed_over()) {
    auto [sequence, group] = *waiting;
    entry = passed_over(sequence, group);
    if (!reload(entry)) return {};
    grouped_->groups.drop_oldest();
    ask_index(group);
  } else if (!returned_.empty()) {
    if (!next_is_resident()) return {};
    entry = std::move(returned_.extract(returned_.begin()).mapped());
  } else {
    if (!load_head()) return {};
    if (head_.entries.front().group != 0) begin_groups();
    entry = pop_head();
  }
  taken_out(entry);
  return entry;
}

// All that waits is older than position_, and between it only a few are out.
void Backlog::purge_passed_over() {
  auto oldest = grouped_->groups.oldest();
  if (!oldest) return;
  Sequence from = oldest->first;
  for (const auto& [sequence, entry] : grouped_->kept) journal_.cancel(entry.slot);
  grouped_->kept.clear();
  grouped_->kept_bytes = 0;
  grouped_->groups.clear_waiting();
  std::erase_if(purged_, [&](const SequenceRange& r) { return r.first >= from; });
  for (auto out = grouped_->out.lower_bound(from); out != grouped_->out.end(); ++out) {
    if (from < *out) purged_.push_back({from, *out});
    from = *out + 1;
  }
  if (from < position_) purged_.push_back({from, position_});
  changed();
}

// Copies of the first ones that wait for their groups.
std::map<Sequence, Entry> Backlog::peek_passed_over(size_t count_max) {
  std::map<Sequence, Entry> found;
  auto oldest = grouped_->groups.oldest();
  if (!oldest) return found;
  SequenceRange range = {oldest->first, position_};
  while (found.size() < count_max && range.first < range.end) {
    auto page = journal_.read_now(id_, range, kPageCountMax, kPageBytesMax);
    if (!page) {
      journal_.fail_reading(page.error());
      return found;
    }
    if (page->empty()) break;
    range.first = page->back().sequence + 1;
    for (storage::StoredMessage& message : *page) {
      Sequence sequence = message.sequence;
      if (!grouped_->groups.waits(message.record->group(), sequence)) continue;
      found.emplace(sequence, entry_of(std::move(message)));
    }
  }
  for (const auto& [sequence, entry] : grouped_->kept) found.insert_or_assign(sequence, entry);
  return found;
}

}  // namespace sluice::broker
