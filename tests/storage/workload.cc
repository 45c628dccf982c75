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
      const BodyPtr& external = message.record->external();
      bool intact =
          external == nullptr
              ? body_of(message) == body_for(id, message.sequence)
              : read_body(store, *external) ==
                    external_body(std::stoull(std::string(message.record->routing_key())));
      EXPECT_TRUE(intact) << "message " << message.sequence << " of queue " << id;
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
