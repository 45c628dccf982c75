#include "storage/rocksdb/time_table.h"

#include <algorithm>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "storage/rocksdb/keys.h"

namespace sluice::storage {
namespace {

using rocksdb::Status;

// The references of delayed messages to bodies are with those of their queue's messages, behind any
// sequence that these reach: so a queue's watermark passes them when it is dropped, not before.
constexpr Sequence kScheduledRef = Sequence{1} << 63;

constexpr size_t kFieldBytes = 8;

void add(std::string& row, uint64_t value) {
  char bytes[kFieldBytes];
  put_be64(bytes, value);
  row.append(bytes, sizeof bytes);
}

uint64_t field(std::string_view row, size_t index) {
  return get_be64(row.data() + index * kFieldBytes);
}

std::string encode(const SchedulePosition& position) {
  std::string row;
  add(row, position.first_due_ms);
  add(row, position.next_number);
  add(row, position.count);
  return row;
}

std::optional<SchedulePosition> decode_schedule(std::string_view row) {
  if (row.size() != 3 * kFieldBytes) return {};
  return SchedulePosition{field(row, 0), field(row, 1), field(row, 2)};
}

std::string encode(const DedupPosition& position) {
  std::string row;
  add(row, position.watermark);
  add(row, position.next_number);
  add(row, position.last_at_ms);
  for (const DedupEntry& mark : position.marks) {
    add(row, mark.number);
    add(row, mark.at_ms);
  }
  return row;
}

std::optional<DedupPosition> decode_dedup(std::string_view row) {
  if (row.size() < 3 * kFieldBytes || row.size() % (2 * kFieldBytes) != kFieldBytes) return {};
  DedupPosition position{field(row, 0), field(row, 1), field(row, 2), {}};
  for (size_t at = 3; at < row.size() / kFieldBytes; at += 2) {
    position.marks.push_back({field(row, at), field(row, at + 1)});
  }
  return position;
}

std::unexpected<Error> damaged(std::string_view what, QueueId queue) {
  return fail(Code::kCorrupt, fmt::format("{} of queue {} is damaged", what, queue));
}

// A walk over [from, end) of a family; the bounds live as long as it does.
class Rows {
 public:
  Rows(const Engine& engine, rocksdb::ColumnFamilyHandle* column, std::string_view from,
       std::string_view end)
      : from_(from), end_(end), lower_(from_), upper_(end_) {
    rocksdb::ReadOptions options = iterator_options();
    options.iterate_lower_bound = &lower_;
    options.iterate_upper_bound = &upper_;
    options.fill_cache = false;  // a row is read once
    iterator_.reset(engine.db->NewIterator(options, column));
    iterator_->SeekToFirst();
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  rocksdb::Iterator* operator->() const { return iterator_.get(); }

 private:
  const std::string from_;
  const std::string end_;
  const rocksdb::Slice lower_;
  const rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
};

}  // namespace

Expected<> TimeTable::load() {
  Rows row(engine_, engine_.dedup, DedupRowKey(DedupKind::kPosition, 0).view(),
           std::string(1, kDedupKindEnd));
  for (; row->Valid(); row->Next()) {
    auto position = decode_dedup(row->value().ToStringView());
    if (row->key().size() != kTimeKeyBytesMin || !position) {
      return fail(Code::kCorrupt, "a stored window of deduplication ids has the wrong size");
    }
    engine_.dedup_watermarks.advance(queue_of_time_key(row->key().data()), position->watermark);
  }
  if (!row->status().ok()) {
    return std::unexpected(to_error(row->status(), "reading the windows of deduplication ids"));
  }
  all_synced();  // recovery has written tables of what the log held
  return {};
}

bool TimeTable::holds(QueueId queue) const {
  auto any = [&](rocksdb::ColumnFamilyHandle* column, std::string_view from, std::string_view end) {
    Rows row(engine_, column, from, end);
    return row->Valid() || !row->status().ok();
  };
  for (auto kind : {ScheduleKind::kMessage, ScheduleKind::kPosition, ScheduleKind::kExpiring}) {
    if (any(engine_.schedule, ScheduleRowKey(kind, queue).view(),
            ScheduleRowKey(kind, queue + 1).view())) {
      return true;
    }
  }
  for (auto kind : {DedupKind::kId, DedupKind::kPosition}) {
    if (any(engine_.dedup, DedupRowKey(kind, queue).view(), DedupRowKey(kind, queue + 1).view())) {
      return true;
    }
  }
  return false;
}

Expected<std::vector<QueueId>> TimeTable::queues() const {
  std::vector<QueueId> found;
  auto add_all = [&](rocksdb::ColumnFamilyHandle* column, std::string_view from, char end) {
    Rows row(engine_, column, from, std::string(1, end));
    for (; row->Valid(); row->Next()) {
      QueueId queue = queue_of_time_key(row->key().data());
      if (!is_dropped(queue)) found.push_back(queue);
    }
    return row->status();
  };
  auto status = add_all(engine_.schedule, ScheduleRowKey(ScheduleKind::kPosition, 0).view(),
                        kScheduleKindEnd);
  if (status.ok()) {
    status = add_all(engine_.dedup, DedupRowKey(DedupKind::kPosition, 0).view(), kDedupKindEnd);
  }
  if (!status.ok()) return std::unexpected(to_error(status, "reading which queues have schedules"));
  return found;
}

Status TimeTable::build(rocksdb::WriteBatch& write, const Batch& batch,
                        const std::function<bool(QueueId)>& is_dropped) {
  Status status;
  auto keep = [&status](Status next) {
    if (status.ok()) status = std::move(next);
  };
  for (const auto& schedule : batch.schedules) {
    if (schedule.record == nullptr || is_dropped(schedule.queue)) continue;
    keep(bodies_.append(schedule.queue, kScheduledRef | schedule.key.number, *schedule.record));
    auto bytes = schedule.record->bytes();
    keep(write.Put(engine_.schedule, slice(ScheduleRowKey(schedule.queue, schedule.key).view()),
                   rocksdb::Slice(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  }
  for (const auto& unschedule : batch.unschedules) {
    if (is_dropped(unschedule.queue)) continue;
    keep(bodies_.remove(unschedule.queue, kScheduledRef | unschedule.key.number));
    // A key is written once, so both go as soon as they meet.
    keep(write.SingleDelete(engine_.schedule,
                            slice(ScheduleRowKey(unschedule.queue, unschedule.key).view())));
  }
  for (const auto& advance : batch.schedule_advances) {
    if (is_dropped(advance.queue)) continue;
    keep(write.Put(engine_.schedule,
                   slice(ScheduleRowKey(ScheduleKind::kPosition, advance.queue).view()),
                   encode(advance.position)));
  }
  for (QueueId queue : batch.expiring_queues) {
    if (is_dropped(queue)) continue;
    keep(write.Put(engine_.schedule, slice(ScheduleRowKey(ScheduleKind::kExpiring, queue).view()),
                   rocksdb::Slice()));
  }
  for (const auto& remember : batch.remembers) {
    if (is_dropped(remember.queue)) continue;
    char value[2 * kFieldBytes];
    put_be64(value, remember.entry.number);
    put_be64(value + kFieldBytes, remember.entry.at_ms);
    keep(write.Put(engine_.dedup, slice(DedupRowKey(remember.queue, remember.id).view()),
                   rocksdb::Slice(value, sizeof value)));
  }
  for (const auto& advance : batch.dedup_advances) {
    if (is_dropped(advance.queue)) continue;
    keep(write.Put(engine_.dedup, slice(DedupRowKey(DedupKind::kPosition, advance.queue).view()),
                   encode(advance.position)));
  }
  return status;
}

void TimeTable::written(const Batch& batch) {
  for (const auto& advance : batch.dedup_advances) {
    engine_.dedup_watermarks.advance(advance.queue, advance.position.watermark);
  }
}

Expected<SchedulePosition> TimeTable::schedule(QueueId queue) const {
  if (is_dropped(queue)) return SchedulePosition{};
  std::string row;
  auto status = engine_.db->Get({}, engine_.schedule,
                                slice(ScheduleRowKey(ScheduleKind::kPosition, queue).view()), &row);
  if (status.IsNotFound()) return SchedulePosition{};
  if (!status.ok()) return std::unexpected(to_error(status, "reading a queue's schedule"));
  auto position = decode_schedule(row);
  if (!position) return damaged("the position in the schedule", queue);
  return *position;
}

Expected<bool> TimeTable::expiring(QueueId queue) const {
  if (is_dropped(queue)) return false;
  std::string row;
  auto status = engine_.db->Get({}, engine_.schedule,
                                slice(ScheduleRowKey(ScheduleKind::kExpiring, queue).view()), &row);
  if (status.IsNotFound()) return false;
  if (!status.ok()) {
    return std::unexpected(to_error(status, "reading whether a queue's messages expire"));
  }
  return true;
}

Expected<DedupPosition> TimeTable::dedup(QueueId queue) const {
  if (is_dropped(queue)) return DedupPosition{};
  std::string row;
  auto status = engine_.db->Get({}, engine_.dedup,
                                slice(DedupRowKey(DedupKind::kPosition, queue).view()), &row);
  if (status.IsNotFound()) return DedupPosition{};
  if (!status.ok()) return std::unexpected(to_error(status, "reading a deduplication window"));
  return *decode_dedup(row);  // load() has checked it
}

Expected<std::vector<ScheduledMessage>> TimeTable::read_schedule(QueueId queue, ScheduleKey from,
                                                                 size_t count_max,
                                                                 size_t bytes_max) const {
  if (is_dropped(queue)) return std::vector<ScheduledMessage>();
  Rows row(engine_, engine_.schedule, ScheduleRowKey(queue, from).view(),
           ScheduleRowKey(ScheduleKind::kMessage, queue + 1).view());
  std::vector<ScheduledMessage> found;
  size_t bytes = 0;
  for (; row->Valid() && found.size() < count_max && bytes <= bytes_max; row->Next()) {
    auto value = row->value();
    auto record = Record::from_bytes({reinterpret_cast<const uint8_t*>(value.data()), value.size()},
                                     bodies_.held());
    if (!record) return damaged("a delayed message", queue);
    bytes += value.size();
    found.push_back({ScheduleRowKey::key(row->key().data()), *std::move(record)});
  }
  if (!row->status().ok()) return std::unexpected(to_error(row->status(), "reading a schedule"));
  return found;
}

Expected<std::optional<DedupEntry>> TimeTable::find_id(QueueId queue, const DedupHash& id) const {
  if (is_dropped(queue)) return std::optional<DedupEntry>();
  rocksdb::PinnableSlice row;
  auto status = engine_.db->Get({}, engine_.dedup, slice(DedupRowKey(queue, id).view()), &row);
  if (status.IsNotFound()) return std::optional<DedupEntry>();
  if (!status.ok()) return std::unexpected(to_error(status, "looking up a deduplication id"));
  if (row.size() != 2 * kFieldBytes) return damaged("a deduplication id", queue);
  std::string_view fields = row.ToStringView();
  return DedupEntry{field(fields, 0), field(fields, 1)};
}

}  // namespace sluice::storage
