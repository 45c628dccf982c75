#include "broker/queue/queue.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::broker {

namespace {
// A page of recovery.
constexpr size_t kReadCount = 1024;
constexpr size_t kReadBytes = 8 << 20;
}  // namespace

Queue::Queue(Journal& journal, storage::QueueId id, QueueSettings settings)
    : journal_(journal), id_(id), settings_(std::move(settings)) {
  CHECK(id_ == 0 || settings_.durable);
}

bool Queue::publish(storage::RecordPtr record, bool persistent) {
  Entry entry;
  entry.sequence = next_sequence_++;
  entry.stored = persistent && id_ != 0;
  if (entry.stored) entry.slot = journal_.append(id_, entry.sequence, record);
  bool stored = entry.stored;
  entry.record = std::move(record);
  ready_.push_back(std::move(entry));
  pump();
  return stored;
}

Entry Queue::pop() {
  CHECK(ready_count() > 0);
  ++unacked_count_;
  Entry entry;
  if (!returned_.empty()) {
    entry = std::move(returned_.extract(returned_.begin()).mapped());
  } else {
    entry = std::move(ready_.front());
    ready_.pop_front();
  }
  delivered_below_ = std::max(delivered_below_, entry.sequence + 1);
  return entry;
}

std::optional<Entry> Queue::take() {
  if (ready_count() == 0) return std::nullopt;
  return pop();
}

void Queue::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (ready_count() > 0 && !takers_.empty()) {
    Consumer* consumer = takers_.front();
    if (!consumer->can_take()) {
      takers_.pop_front();
      consumer->turn_.reset();
      continue;
    }
    takers_.splice(takers_.end(), takers_, takers_.begin());
    consumer->take(*this, pop());
  }
  pumping_ = false;
}

void Queue::settle(const Entry& entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  note_consumed(entry);
}

void Queue::requeue(Entry entry) {
  if (removed_) return;
  CHECK(unacked_count_ > 0);
  --unacked_count_;
  entry.redelivered = true;
  storage::Sequence sequence = entry.sequence;
  bool inserted = returned_.emplace(sequence, std::move(entry)).second;
  CHECK(inserted);
  pump();
}

void Queue::note_attempts(const Entry& entry) {
  if (removed_ || !entry.stored) return;
  journal_.changes().attempts.push_back({id_, entry.sequence, entry.attempts});
}

void Queue::note_consumed(const Entry& entry) {
  if (id_ == 0) return;
  bool cancelled = entry.stored && journal_.cancel(entry.slot);
  if (cancelled && entry.attempts > 0) journal_.forget_attempts(id_, entry.sequence);
  bool on_disk = entry.stored && !cancelled;
  bool in_order = entry.sequence == consumed_.watermark();
  consumed_.add(entry.sequence);
  if (!on_disk) return;
  if (in_order) {
    watermark_unwritten_ = true;
  } else {
    unwritten_removes_.push_back(entry.sequence);
  }
  if (!in_journal_) {
    in_journal_ = true;
    journal_.mark_consumed(shared_from_this());
  }
}

void Queue::collect_consumed(storage::Batch& batch) {
  in_journal_ = false;
  if (removed_) return;
  for (storage::Sequence sequence : unwritten_removes_) {
    if (sequence < consumed_.watermark()) {
      watermark_unwritten_ = true;  // says it for all below
    } else {
      batch.removes.push_back({id_, sequence});
    }
  }
  unwritten_removes_.clear();
  if (watermark_unwritten_) {
    watermark_unwritten_ = false;
    batch.advances.push_back({id_, consumed_.watermark()});
  }
}

size_t Queue::purge() {
  size_t count = ready_count();
  for (const auto& [sequence, entry] : returned_) note_consumed(entry);
  for (const Entry& entry : ready_) note_consumed(entry);
  returned_.clear();
  ready_.clear();
  return count;
}

std::vector<const Entry*> Queue::peek(size_t count_max) const {
  std::vector<const Entry*> entries;
  for (const auto& [sequence, entry] : returned_) {
    if (entries.size() >= count_max) return entries;
    entries.push_back(&entry);
  }
  for (const Entry& entry : ready_) {
    if (entries.size() >= count_max) break;
    entries.push_back(&entry);
  }
  return entries;
}

void Queue::add_consumer(Consumer* consumer, bool exclusive) {
  CHECK(!removed_ && exclusive_consumer_ == nullptr && (!exclusive || consumers_.empty()));
  consumers_.insert(consumer);
  had_consumers_ = true;
  if (exclusive) exclusive_consumer_ = consumer;
  consumer_ready(consumer);
}

void Queue::remove_consumer(Consumer* consumer) {
  consumers_.erase(consumer);
  if (consumer->turn_) takers_.erase(*consumer->turn_);
  consumer->turn_.reset();
  if (exclusive_consumer_ == consumer) exclusive_consumer_ = nullptr;
}

void Queue::consumer_ready(Consumer* consumer) {
  if (!consumer->turn_) consumer->turn_ = takers_.insert(takers_.end(), consumer);
  pump();
}

Expected<> Queue::recover(storage::Store& store) {
  auto position = store.position(id_);
  if (!position) return std::unexpected(position.error());
  consumed_.start_at(position->watermark);
  next_sequence_ = position->next;
  delivered_below_ = position->delivered;
  storage::Sequence from = position->watermark;
  for (;;) {
    auto page = store.read(id_, from, kReadCount, kReadBytes);
    if (!page) return std::unexpected(page.error());
    if (page->empty()) break;
    for (auto& message : *page) {
      consumed_.add(from, message.sequence);  // out of order, or never stored
      Entry entry;
      entry.sequence = message.sequence;
      entry.record = std::move(message.record);
      entry.attempts = message.attempts;
      entry.redelivered = message.sequence < delivered_below_;
      entry.stored = true;
      ready_.push_back(std::move(entry));
      from = message.sequence + 1;
    }
  }
  consumed_.add(from, next_sequence_);
  return {};
}

void Queue::remove() {
  CHECK(!removed_);
  if (id_ != 0) journal_.drop(id_);
  removed_ = true;
  ready_.clear();
  returned_.clear();
  unacked_count_ = 0;
  takers_.clear();
  exclusive_consumer_ = nullptr;
  for (Consumer* consumer : std::exchange(consumers_, {})) {
    consumer->turn_.reset();
    consumer->queue_deleted(*this);
  }
}

}  // namespace sluice::broker
