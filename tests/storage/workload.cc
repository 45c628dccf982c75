#include "tests/storage/workload.h"

#include <iterator>

#include "tests/storage/bodies_support.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

// Mostly small; sometimes over several blocks of the log; rarely one for a blob file.
std::string body_for(QueueId queue, Sequence sequence) {
  std::minstd_rand random(static_cast<uint32_t>(queue * 1'000'003 + sequence));
  uint32_t kind = random() % 200;
  size_t size = kind == 0 ? 70'000 : kind < 10 ? 5'000 + random() % 10'000 : random() % 600;
  std::string body(size, static_cast<char>(random()));
  for (size_t at = 0; at < size; at += 509) body[at] = static_cast<char>(random());
  return body;
}

// Named by its number, which is its messages' routing key.
std::string external_body(uint64_t number) { return "x" + body_for(0, number); }

DedupHash id_of(uint64_t number) {
  DedupHash id{};
  std::minstd_rand random(static_cast<uint32_t>(number));
  for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
  return id;
}

bool intact(Store& store, const Record& record, const std::string& wanted) {
  if (record.external() == nullptr) {
    auto body = record.body();
    return std::string(body.begin(), body.end()) == wanted;
  }
  return read_body(store, *record.external()) ==
         external_body(std::stoull(std::string(record.routing_key())));
}

}  // namespace

QueueId Workload::some_queue() {
  if (model_.queues.empty() || (model_.queues.size() < 4 && below(8) == 0)) {
    QueueId queue = next_queue_++;
    model_.queues[queue];
    next_sequence_[queue] = 1;
  }
  return std::next(model_.queues.begin(), static_cast<ptrdiff_t>(below(model_.queues.size())))
      ->first;
}

void Workload::publish(Batch& batch) {
  QueueId queue = some_queue();
  for (uint64_t count = 1 + below(60); count > 0; --count) {
    Sequence sequence = next_sequence_[queue]++;
    if (below(10) == 0) {  // acknowledged before it was written
      batch.appends.push_back({queue, sequence, nullptr});
      continue;
    }
    batch.appends.push_back({queue, sequence, record_of(body_for(queue, sequence))});
    model_.queues[queue].attempts[sequence] = 0;
  }
}

void Workload::publish_external(Batch& batch) {
  ++bodies_;
  std::string bytes = external_body(bodies_);
  BodyPtr body =
      store_ != nullptr ? store_->new_body(bytes.size()) : held_->hold(bodies_, bytes.size());
  put_chunks(batch, *body, bytes, 500 + below(4000));
  for (uint64_t queues = below(4); queues > 0; --queues) {
    QueueId queue = some_queue();
    Sequence sequence = next_sequence_[queue]++;
    batch.appends.push_back({queue, sequence, record_with(body, std::to_string(bodies_))});
    model_.queues[queue].attempts[sequence] = 0;
  }
}

void Workload::consume(Batch& batch) {
  QueueId id = some_queue();
  auto& queue = model_.queues[id];
  for (uint64_t count = below(10); count > 0 && !queue.attempts.empty(); --count) {
    auto victim =
        std::next(queue.attempts.begin(), static_cast<ptrdiff_t>(below(queue.attempts.size())));
    batch.removes.push_back({id, victim->first});
    queue.attempts.erase(victim);
  }
  Sequence ahead = next_sequence_[id] - queue.watermark;
  if (Sequence watermark = queue.watermark + below(ahead + 1); watermark > queue.watermark) {
    batch.advances.push_back({id, watermark});
    queue.watermark = watermark;
    queue.attempts.erase(queue.attempts.begin(), queue.attempts.lower_bound(watermark));
  }
}

void Workload::advance_schedule(Batch& batch, QueueId id) {
  const auto& queue = model_.queues[id];
  uint64_t first = queue.scheduled.empty() ? 0 : queue.scheduled.begin()->due_ms;
  batch.schedule_advances.push_back({id, {first, queue.next_number, queue.scheduled.size()}});
}

void Workload::delay(Batch& batch) {
  QueueId id = some_queue();
  auto& queue = model_.queues[id];
  for (uint64_t count = 1 + below(20); count > 0; --count) {
    ScheduleKey key{below(1000), queue.next_number++};
    if (below(10) == 0) {  // moved before it was written
      batch.schedules.push_back({id, key, nullptr});
      continue;
    }
    RecordPtr record;
    if (below(20) == 0) {
      std::string bytes = external_body(++bodies_);
      BodyPtr body =
          store_ != nullptr ? store_->new_body(bytes.size()) : held_->hold(bodies_, bytes.size());
      put_chunks(batch, *body, bytes, 4000);
      record = record_with(body, std::to_string(bodies_));
    } else {
      record = record_of(body_for(id, key.number));
    }
    batch.schedules.push_back({id, key, record});
    queue.scheduled.insert(key);
    records_[{id, key}] = record;
  }
  advance_schedule(batch, id);
}

// The first of them become messages of the queue, in one batch.
void Workload::move_due(Batch& batch) {
  QueueId id = some_queue();
  auto& queue = model_.queues[id];
  for (uint64_t count = 1 + below(20); count > 0 && !queue.scheduled.empty(); --count) {
    ScheduleKey key = *queue.scheduled.begin();
    queue.scheduled.erase(key);
    RecordPtr record = std::move(records_.extract({id, key}).mapped());
    Sequence sequence = next_sequence_[id]++;
    if (record->external() == nullptr) {
      record = record_of(body_for(id, sequence));
    } else if (store_ != nullptr) {
      // Its body has the number that it got when it was stored, perhaps by a run before this one.
      auto stored = store_->read_schedule(id, key, 1, 0);
      if (stored && !stored->empty() && stored->front().key == key) record = stored->front().record;
    }
    batch.unschedules.push_back({id, key});
    batch.appends.push_back({id, sequence, record});
    queue.attempts[sequence] = 0;
  }
  advance_schedule(batch, id);
}

// An id for each message; the oldest go by the watermark.
void Workload::remember(Batch& batch) {
  QueueId id = some_queue();
  auto& queue = model_.queues[id];
  for (uint64_t count = 1 + below(30); count > 0; --count) {
    Sequence sequence = next_sequence_[id]++;
    batch.appends.push_back({id, sequence, record_of(body_for(id, sequence))});
    queue.attempts[sequence] = 0;
    batch.remembers.push_back({id, id_of(sequence), {sequence, sequence}});
    queue.ids.insert(sequence);
  }
  uint64_t watermark = below(4) == 0 ? next_sequence_[id] - below(next_sequence_[id]) : 1;
  if (!queue.ids.empty()) watermark = std::max(watermark, *queue.ids.begin());
  queue.ids.erase(queue.ids.begin(), queue.ids.lower_bound(watermark));
  batch.dedup_advances.push_back({id, {watermark, next_sequence_[id], next_sequence_[id], {}}});
}

void Workload::retry(Batch& batch) {
  QueueId id = some_queue();
  auto& queue = model_.queues[id];
  if (queue.attempts.empty()) return;
  auto message =
      std::next(queue.attempts.begin(), static_cast<ptrdiff_t>(below(queue.attempts.size())));
  batch.attempts.push_back({id, message->first, ++message->second});
}

void Workload::define(Batch& batch) {
  std::string key = "queue" + std::to_string(below(20));
  if (model_.catalog.contains(key) && below(2) == 0) {
    batch.definitions.push_back({CatalogKind::kQueue, key, {}});
    model_.catalog.erase(key);
  } else {
    std::string value = std::to_string(random_());
    batch.definitions.push_back({CatalogKind::kQueue, key, value});
    model_.catalog[key] = value;
  }
}

Batch Workload::next() {
  Batch batch;
  if (below(60) == 0) {
    QueueId queue = some_queue();
    batch.dropped_queues.push_back(queue);
    model_.queues.erase(queue);
  }
  publish(batch);
  if (below(2) == 0) publish(batch);
  if (below(3) == 0) publish_external(batch);
  if (below(3) == 0) consume(batch);
  if (below(4) == 0) retry(batch);
  if (below(4) == 0) delay(batch);
  if (below(4) == 0) move_due(batch);
  if (below(6) == 0) remember(batch);
  if (below(10) == 0) define(batch);
  return batch;
}

Model contents_of(Store& store, QueueId queue_end) {
  Model model;
  for (QueueId id = 1; id < queue_end; ++id) {
    Model::Queue queue;
    queue.watermark = position_of(store, id).watermark;
    for (const auto& message : all_of(store, id)) {
      queue.attempts[message.sequence] = message.attempts;
      EXPECT_TRUE(intact(store, *message.record, body_for(id, message.sequence)))
          << "message " << message.sequence << " of queue " << id;
    }
    auto position = store.schedule(id);
    auto scheduled = store.read_schedule(id, {}, SIZE_MAX, SIZE_MAX);
    EXPECT_TRUE(position && scheduled);
    if (position && scheduled) {
      queue.next_number = position->next_number;
      for (const auto& message : *scheduled) {
        queue.scheduled.insert(message.key);
        EXPECT_TRUE(intact(store, *message.record, body_for(id, message.key.number)));
        EXPECT_GE(message.key.due_ms, position->first_due_ms);
      }
      EXPECT_EQ(position->count, scheduled->size());
    }
    auto window = store.dedup(id);
    EXPECT_TRUE(window);
    for (uint64_t number = window->watermark; number < window->next_number; ++number) {
      auto entry = store.find_id(id, id_of(number));
      EXPECT_TRUE(entry);
      if (*entry) queue.ids.insert((*entry)->number);
    }
    if (queue != Model::Queue()) model.queues[id] = queue;
  }
  auto catalog = store.catalog(CatalogKind::kQueue);
  EXPECT_TRUE(catalog);
  if (catalog) {
    for (auto& entry : *catalog) model.catalog[entry.key] = entry.value;
  }
  return model;
}

}  // namespace sluice::storage
