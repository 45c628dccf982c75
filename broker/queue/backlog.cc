#include "broker/queue/backlog.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "broker/queue/limits.h"

namespace sluice::broker {

using storage::Sequence;
using storage::SequenceRange;

void Backlog::Window::push_back(Entry entry) {
  bytes += entry.record_bytes;
  entries.push_back(std::move(entry));
}

Entry Backlog::Window::pop_front() {
  Entry entry = std::move(entries.front());
  entries.pop_front();
  bytes -= entry.record_bytes;
  return entry;
}

Entry Backlog::Window::pop_back() {
  Entry entry = std::move(entries.back());
  entries.pop_back();
  bytes -= entry.record_bytes;
  return entry;
}

Backlog::Backlog(Journal& journal, ResidentSet& resident, storage::QueueId id, uint8_t priority,
                 bool durable, std::function<void()> arrived)
    : journal_(journal),
      resident_(resident),
      id_(id),
      priority_(priority),
      durable_(durable),
      arrived_(std::move(arrived)) {
  CHECK(id_ != 0);
}

// What an entry knows of its record.
void Backlog::describe(Entry& entry, storage::RecordPtr record) {
  entry.record_bytes = static_cast<uint32_t>(record->bytes().size());
  entry.body_bytes = record->body_bytes();
  entry.group = record->group();
  entry.record = std::move(record);
}

Backlog::~Backlog() { resident_.remove(this); }

size_t Backlog::ready_count() const {
  size_t waiting = grouped_ ? grouped_->groups.waiting_count() : 0;
  return returned_.size() + waiting + head_.entries.size() + disk_.count + tail_.entries.size();
}

size_t Backlog::window_bytes_max() const {
  return resident_.pressed() ? kWindowMinBytes : kWindowBytes;
}

void Backlog::update_residence() {
  if (resident_bytes() > kWindowMinBytes) {
    resident_.add(this);
  } else {
    resident_.remove(this);
  }
}

void Backlog::changed() {
  if (in_journal_) return;
  in_journal_ = true;
  journal_.mark_changed(shared_from_this());
}

// Hands the message to the journal.
void Backlog::store_now(Entry& entry) {
  entry.slot = journal_.append(id_, entry.sequence, entry.record);
  entry.stored = true;
  // A start finds the levels that hold something by their positions.
  bool unknown = priority_ > 0 && !on_disk_ever_;
  on_disk_ever_ = true;
  ++stored_count_;
  stored_bytes_ += entry.body_bytes;
  ++unsummed_count_;
  unsummed_bytes_ += entry.record_bytes;
  // A transient one may be stored after newer ones: then the sum that the store has is too old.
  bool in_order = entry.sequence >= stored_below_;
  stored_below_ = std::max(stored_below_, entry.sequence + 1);
  if (!in_order || unsummed_count_ >= kUnsummedCountMax || unsummed_bytes_ >= kUnsummedBytesMax ||
      !durable_ || unknown) {
    changed();
  }
}

void Backlog::forget_stored(const Entry& entry) {
  CHECK(stored_count_ > 0);
  --stored_count_;
  stored_bytes_ -= entry.body_bytes;
}

bool Backlog::push(storage::RecordPtr record, bool persistent) {
  Entry entry;
  entry.sequence = next_sequence_++;
  entry.priority = priority_;
  describe(entry, std::move(record));
  ready_bytes_ += entry.body_bytes;
  bool store = persistent && durable_;
  if (store) store_now(entry);
  bool fits = disk_.count == 0 && tail_.entries.empty() && head_.bytes < window_bytes_max();
  if (fits) {
    head_.push_back(std::move(entry));
  } else {
    if (!entry.stored) store_now(entry);
    tail_.push_back(std::move(entry));
    trim_tail(window_bytes_max());
  }
  update_residence();
  return store;
}

void Backlog::move_to_disk(const Entry& entry) {
  if (disk_.count == 0) disk_ = {entry.sequence, entry.sequence + 1, 0};
  disk_.begin = std::min(disk_.begin, entry.sequence);
  disk_.end = std::max(disk_.end, entry.sequence + 1);
  ++disk_.count;
}

// Everything in the tail is stored or on its way.
void Backlog::trim_tail(size_t bytes_max) {
  while (tail_.bytes > bytes_max && journal_.committed(tail_.entries.front().slot)) {
    move_to_disk(tail_.pop_front());
  }
}

void Backlog::shrink(size_t bytes_max) {
  trim_tail(bytes_max / 2);
  if (grouped_) forget_kept(bytes_max / 4);
  bool moved = false;
  while (head_.bytes > bytes_max / 2 && head_.entries.back().stored &&
         journal_.committed(head_.entries.back().slot)) {
    move_to_disk(head_.pop_back());
    moved = true;
  }
  if (moved) {
    // What is being read is no longer what follows the head.
    reading_ = false;
    ++read_number_;
  }
  // Transient ones have to be written first.
  size_t kept = 0;
  for (Entry& entry : head_.entries) {
    kept += entry.record_bytes;
    if (kept > bytes_max / 2 && !entry.stored) store_now(entry);
  }
  update_residence();
}

SequenceRange Backlog::unread() const { return consumed_.first_gap(disk_.begin, disk_.end); }

void Backlog::read_ahead() {
  if (reading_ || disk_.count == 0 || head_.bytes > window_bytes_max() / 2) return;
  reading_ = true;
  ++read_number_;
  size_t bytes_max = std::min(kPageBytesMax, window_bytes_max());
  SequenceRange range = unread();
  journal_.read(id_, range, kPageCountMax, bytes_max,
                [weak = weak_from_this(), number = read_number_, range](Journal::Page page) {
                  auto self = weak.lock();
                  if (self == nullptr || number != self->read_number_) return;
                  self->reading_ = false;
                  if (!self->take_page(range, std::move(page))) return;
                  self->read_ahead();
                  self->arrived_();
                });
}

Entry Backlog::entry_of(storage::StoredMessage message) const {
  Entry entry;
  entry.sequence = message.sequence;
  entry.priority = priority_;
  entry.attempts = message.attempts;
  describe(entry, std::move(message.record));
  entry.redelivered = message.sequence < recovered_delivered_;
  entry.stored = true;
  return entry;
}

// The messages of `range`, which follow the head. False where the store has lost some.
bool Backlog::take_page(SequenceRange range, Journal::Page page) {
  if (!page) {
    journal_.fail_reading(page.error());
    return false;
  }
  for (storage::StoredMessage& message : *page) {
    if (disk_.count == 0) break;
    disk_.begin = message.sequence + 1;
    --disk_.count;
    head_.push_back(entry_of(std::move(message)));
  }
  if (page->empty()) disk_.begin = range.end;
  SequenceRange rest = unread();
  if (disk_.count > 0 && rest.first == rest.end) {
    journal_.fail_reading({Code::kCorrupt, fmt::format("the store lacks {} messages of queue {} "
                                                       "that are counted in it",
                                                       disk_.count, id_)});
    return false;
  }
  update_residence();
  return true;
}

bool Backlog::head_is_resident() {
  if (head_.entries.empty() && disk_.count == 0) std::swap(head_, tail_);
  return !head_.entries.empty();
}

bool Backlog::next_is_resident() {
  if (!returned_.empty()) return returned_.begin()->second.record != nullptr || load_returned();
  while (head_is_resident()) {
    if (may_take(head_.entries.front())) return true;
    if (!pass_over_head()) return false;
  }
  read_ahead();
  return false;
}

bool Backlog::load_head() {
  while (!head_is_resident()) {
    if (disk_.count == 0) return false;
    reading_ = false;
    ++read_number_;
    SequenceRange range = unread();
    auto page = journal_.read_now(id_, range, kPageCountMax, kWindowMinBytes);
    if (!take_page(range, std::move(page))) return false;
  }
  return true;
}

bool Backlog::load_next() {
  if (!returned_.empty()) return next_is_resident();
  for (size_t passed = 0; passed < kPassedOverPerFetch; ++passed) {
    if (!load_head()) return false;
    if (may_take(head_.entries.front())) return true;
    if (!pass_over_head()) return false;
  }
  return false;
}

// The oldest of those that were given back, and some that follow it.
bool Backlog::load_returned() {
  auto first = returned_.begin();
  auto page = journal_.read_now(id_, {first->first, returned_.rbegin()->first + 1},
                                kReturnedPageCount, kWindowMinBytes);
  if (!page) {
    journal_.fail_reading(page.error());
    return false;
  }
  for (storage::StoredMessage& message : *page) {
    auto found = returned_.find(message.sequence);
    if (found != returned_.end() && found->second.record == nullptr) {
      fill(found->second, std::move(message));
    }
  }
  if (first->second.record != nullptr) return true;
  journal_.fail_reading(
      {Code::kCorrupt, fmt::format("the store lacks message {} of queue {}", first->first, id_)});
  return false;
}

// Gives an entry the record that it lacks. What it counts may be newer than what is stored.
void Backlog::fill(Entry& entry, storage::StoredMessage message) {
  entry.attempts = std::max(entry.attempts, message.attempts);
  describe(entry, std::move(message.record));
}

Entry Backlog::pop_head() {
  Entry entry = head_.pop_front();
  // What is in between was never stored, or was gone before a restart.
  if (!grouped_) consumed_.add(position_, entry.sequence);
  position_ = entry.sequence + 1;
  if (disk_.count > 0) read_ahead();
  return entry;
}

void Backlog::taken_out(const Entry& entry) {
  CHECK(entry.record != nullptr);
  delivered_below_ = std::max(delivered_below_, entry.sequence + 1);
  ready_bytes_ -= entry.body_bytes;
  if (entry.stored) {
    ++out_stored_count_;
    out_stored_bytes_ += entry.body_bytes;
  }
  if (grouped_) grouped_->out.insert(entry.sequence);
}

// It is not out any more.
void Backlog::came_back(const Entry& entry) {
  if (entry.stored) {
    --out_stored_count_;
    out_stored_bytes_ -= entry.body_bytes;
  }
  if (grouped_) grouped_->out.erase(entry.sequence);
}

const Entry& Backlog::next() {
  CHECK(ready_count() > 0);
  if (!returned_.empty()) return returned_.begin()->second;
  CHECK(head_is_resident());
  return head_.entries.front();
}

Entry Backlog::pop() {
  CHECK(ready_count() > 0);
  Entry entry;
  if (!returned_.empty()) {
    entry = std::move(returned_.extract(returned_.begin()).mapped());
  } else {
    CHECK(head_is_resident());
    entry = pop_head();
    if (entry.group != 0) grouped_->groups.hold(entry.group, entry.sequence);
  }
  taken_out(entry);
  return entry;
}

void Backlog::release(Entry& entry) const {
  if (resident_.pressed() && is_on_disk(entry)) entry.record.reset();
}

bool Backlog::reload(Entry& entry) {
  if (entry.record != nullptr) return true;
  if (dropped_) return false;
  auto page = journal_.read_now(id_, {entry.sequence, entry.sequence + 1}, 1, 0);
  if (page && page->empty()) {
    page = fail(Code::kCorrupt,
                fmt::format("the store lacks message {} of queue {}", entry.sequence, id_));
  }
  if (!page) {
    journal_.fail_reading(page.error());
    return false;
  }
  fill(entry, std::move(page->front()));
  return true;
}

void Backlog::put_back(Entry entry) {
  if (dropped_) return;
  came_back(entry);
  ready_bytes_ += entry.body_bytes;
  Sequence sequence = entry.sequence;
  bool inserted = returned_.emplace(sequence, std::move(entry)).second;
  CHECK(inserted);
}

void Backlog::note_attempts(const Entry& entry) {
  if (dropped_ || !entry.stored) return;
  journal_.note_attempts(entry.slot, {id_, entry.sequence, entry.attempts});
}

bool Backlog::settle(const Entry& entry) {
  if (dropped_) return false;
  came_back(entry);
  return consume(entry);
}

bool Backlog::consume(const Entry& entry) {
  bool freed = free_group(entry);
  if (grouped_) {
    consumed_.add(consumed_.watermark(), lowest_unconsumed());
  } else {
    consumed_.add(entry.sequence);
  }
  if (!entry.stored) return freed;
  forget_stored(entry);
  if (journal_.cancel(entry.slot)) return freed;
  if (entry.sequence >= consumed_.watermark()) {
    unwritten_removes_.push_back({entry.sequence, entry.group});
  }
  changed();
  return freed;
}

size_t Backlog::purge() {
  size_t count = ready_count();
  if (grouped_) purge_passed_over();
  for (const auto& [sequence, entry] : std::exchange(returned_, {})) consume(entry);
  for (const Window* window : {&head_, &tail_}) {
    for (const Entry& entry : window->entries) {
      if (entry.stored) journal_.cancel(entry.slot);
    }
  }
  stored_count_ = out_stored_count_;
  stored_bytes_ = out_stored_bytes_;
  ready_bytes_ = 0;
  head_ = tail_ = {};
  disk_ = {};
  reading_ = false;
  ++read_number_;
  if (position_ < next_sequence_) {
    purged_.push_back({position_, next_sequence_});
    consumed_.add(position_, next_sequence_);
    position_ = next_sequence_;
    if (on_disk_ever_) changed();
  }
  if (grouped_) consumed_.add(consumed_.watermark(), lowest_unconsumed());
  update_residence();
  return count;
}

void Backlog::collect(storage::Batch& batch) {
  in_journal_ = false;
  if (dropped_) return;
  Sequence watermark = consumed_.watermark();
  for (const Removed& removed : unwritten_removes_) {
    // The watermark says it for all below.
    if (removed.sequence >= watermark) {
      batch.removes.push_back({id_, removed.sequence, removed.group});
    }
  }
  unwritten_removes_.clear();
  std::erase_if(purged_, [watermark](const SequenceRange& r) { return r.end <= watermark; });
  batch.advances.push_back(
      {id_, watermark, std::max(stored_below_, watermark), stored_count_, stored_bytes_, purged_});
  unsummed_count_ = 0;
  unsummed_bytes_ = 0;
}

std::vector<Entry> Backlog::peek(size_t count_max) {
  std::vector<Entry> entries;
  auto room = [&] { return count_max - entries.size(); };
  if (count_max == 0) return entries;
  std::map<Sequence, Entry> first;
  if (grouped_) first = peek_passed_over(count_max);
  for (const auto& [sequence, entry] : returned_) {
    if (first.size() >= count_max && sequence > first.rbegin()->first) break;
    first.insert_or_assign(sequence, entry);
    if (!reload(first.at(sequence))) return {};
  }
  for (auto& [sequence, entry] : first) {
    if (room() == 0) return entries;
    entries.push_back(std::move(entry));
  }
  for (const Entry& entry : head_.entries) {
    if (room() == 0) return entries;
    entries.push_back(entry);
  }
  SequenceRange range = unread();
  while (disk_.count > 0 && room() > 0 && range.first < range.end) {
    auto page = journal_.read_now(id_, range, room(), kPageBytesMax);
    if (!page) {
      journal_.fail_reading(page.error());
      return {};
    }
    for (storage::StoredMessage& message : *page) entries.push_back(entry_of(std::move(message)));
    Sequence from = page->empty() ? range.end : entries.back().sequence + 1;
    range = consumed_.first_gap(from, disk_.end);
  }
  for (const Entry& entry : tail_.entries) {
    if (room() == 0) break;
    entries.push_back(entry);
  }
  return entries;
}

Expected<> Backlog::recover(storage::Store& store) {
  auto position = store.position(id_);
  if (!position) return std::unexpected(position.error());
  consumed_.start_at(position->watermark);
  for (const SequenceRange& range : position->purged) consumed_.add(range.first, range.end);
  purged_ = std::move(position->purged);
  position_ = consumed_.watermark();
  next_sequence_ = stored_below_ = position->next;
  // What was purged may have ended with messages that were never stored.
  for (const SequenceRange& range : purged_) next_sequence_ = std::max(next_sequence_, range.end);
  delivered_below_ = recovered_delivered_ = position->delivered;
  stored_count_ = position->count;
  stored_bytes_ = position->bytes;
  on_disk_ever_ = true;
  if (stored_count_ > 0) {
    disk_ = {position_, next_sequence_, stored_count_};
    ready_bytes_ = stored_bytes_;
    SequenceRange rest = unread();
    if (rest.first == rest.end) {
      return fail(Code::kCorrupt, fmt::format("the store lacks {} messages of queue {} that are "
                                              "counted in it",
                                              stored_count_, id_));
    }
  }
  return {};
}

void Backlog::drop() {
  CHECK(!dropped_);
  if (on_disk_ever_ || durable_) journal_.drop(id_);
  dropped_ = true;
  returned_.clear();
  grouped_.reset();
  head_ = tail_ = {};
  disk_ = {};
  ready_bytes_ = 0;
  ++read_number_;
  resident_.remove(this);
}

}  // namespace sluice::broker
