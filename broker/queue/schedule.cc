#include "broker/queue/schedule.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

Schedule::Schedule(Journal& journal, storage::QueueId queue, Due due)
    : journal_(journal),
      queue_(queue),
      due_(std::move(due)),
      alarm_(journal.alarms(), [this] { release(); }) {}

void Schedule::push(storage::RecordPtr record) {
  CHECK(!dropped_);
  Key key{static_cast<uint64_t>(std::max<int64_t>(record->ready_at_ms(), 0)), next_number_++};
  AppendSlot slot = journal_.schedule(queue_, key, record);
  auto entry = entries_.emplace(key, Entry{std::move(record), slot}).first;
  if (key < horizon_) into_window(entry->second);
  unwritten_.emplace_back(key, slot);
  ++count_;
  trim();
  changed();
  wait();
}

void Schedule::into_window(const Entry& entry) {
  ++window_count_;
  window_bytes_ += entry.record->bytes().size();
}

void Schedule::out_of_window(const Entry& entry) {
  --window_count_;
  window_bytes_ -= entry.record->bytes().size();
}

// What lies behind the horizon may come after something that is on disk only.
bool Schedule::first_is_known() const { return window_count_ > 0; }

void Schedule::release() {
  auto keep = shared_from_this();
  trim();
  uint64_t now = static_cast<uint64_t>(journal_.alarms().clock().wall_ms());
  for (size_t left = kReleasesPerTurn; left > 0 && first_is_known(); --left) {
    if (entries_.begin()->first.due_ms > now) break;
    // What is moved has to be written once more: no faster than the disk can.
    if (journal_.unwritten_bytes() > kReleaseBytesMax) {
      alarm_.set_after(kQuietCommitMs);
      return;
    }
    due_(take_first());
    if (dropped_) return;
  }
  wait();
}

storage::RecordPtr Schedule::take_first() {
  auto first = entries_.begin();
  if (!journal_.cancel_scheduled(first->second.slot)) {
    journal_.changes().unschedules.push_back({queue_, first->first});
    taken_[first->first] = {journal_.batch_number(), 0};
  }
  out_of_window(first->second);
  storage::RecordPtr record = std::move(first->second.record);
  entries_.erase(first);
  --count_;
  changed();
  return record;
}

// For the first message's time, once it is known.
void Schedule::wait() {
  if (count_ == 0) {
    alarm_.stop();
  } else if (first_is_known()) {
    alarm_.set_at(static_cast<int64_t>(entries_.begin()->first.due_ms));
  } else {
    read();
  }
}

void Schedule::read() {
  if (reading_) return;
  reading_ = true;
  journal_.read_schedule(queue_, horizon_, kScheduleCountMax / 2, kScheduleBytesMax / 2,
                         [weak = weak_from_this()](Page page) {
                           auto self = weak.lock();
                           if (self == nullptr || self->dropped_) return;
                           self->reading_ = false;
                           self->take_page(std::move(page));
                         });
}

// Nothing was trimmed while it was read, so what it does not have is in RAM.
void Schedule::take_page(Page page) {
  if (!page) {
    journal_.fail_reading(page.error());
    return;
  }
  Key begin = std::exchange(horizon_, kEnd);
  for (storage::ScheduledMessage& message : *page) {
    if (taken_.contains(message.key)) continue;
    entries_.try_emplace(message.key, Entry{std::move(message.record), {}});
  }
  if (!page->empty()) {
    const Key& last = page->back().key;
    horizon_ = {last.due_ms, last.number + 1};
  }
  auto end = entries_.lower_bound(horizon_);
  for (auto at = entries_.lower_bound(begin); at != end; ++at) into_window(at->second);
  if (page->empty() && entries_.size() != count_) {
    journal_.fail_reading({Code::kCorrupt, fmt::format("the store has {} delayed messages of queue "
                                                       "{} instead of {}",
                                                       entries_.size(), queue_, count_)});
    return;
  }
  trim();
  wait();
}

// The latest leave the window, and what is behind it leaves RAM once a read would find it.
void Schedule::trim() {
  if (reading_) return;
  while (!taken_.empty() && journal_.committed(taken_.begin()->second)) {
    taken_.erase(taken_.begin());
  }
  while (window_count_ > 1 &&
         (window_count_ > kScheduleCountMax || window_bytes_ > kScheduleBytesMax)) {
    auto last = std::prev(entries_.lower_bound(horizon_));
    horizon_ = last->first;
    out_of_window(last->second);
    if (journal_.committed(last->second.slot)) entries_.erase(last);
  }
  while (!unwritten_.empty() && journal_.committed(unwritten_.front().second)) {
    auto found = entries_.find(unwritten_.front().first);
    if (found != entries_.end() && found->first >= horizon_) entries_.erase(found);
    unwritten_.pop_front();
  }
}

// The batch says once where the schedule stands.
void Schedule::changed() {
  Key first = entries_.empty() ? horizon_ : std::min(horizon_, entries_.begin()->first);
  storage::SchedulePosition position{first.due_ms, next_number_, count_};
  auto& advances = journal_.changes().schedule_advances;
  if (change_.batch == journal_.batch_number()) {
    advances[change_.index].position = position;
    return;
  }
  advances.push_back({queue_, position});
  change_ = {journal_.batch_number(), static_cast<uint32_t>(advances.size() - 1)};
}

void Schedule::recover(const storage::SchedulePosition& position) {
  count_ = position.count;
  next_number_ = position.next_number;
  if (count_ > 0) horizon_ = {position.first_due_ms, 0};
  wait();
}

void Schedule::drop() {
  dropped_ = true;
  alarm_.stop();
  entries_.clear();
  window_count_ = 0;
  count_ = 0;
}

}  // namespace sluice::broker
