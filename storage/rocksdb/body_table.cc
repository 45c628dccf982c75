#include "storage/rocksdb/body_table.h"

#include <algorithm>
#include <array>

#include "storage/limits.h"
#include "storage/rocksdb/keys.h"

namespace sluice::storage {
namespace {

using rocksdb::Status;

constexpr Sequence kNoRef = ~Sequence{0};

template <size_t N>
rocksdb::Slice slice_of(const std::array<char, N>& bytes) {
  return {bytes.data(), bytes.size()};
}

Status wrong_size() {
  return Status::Corruption("an entry of the index of bodies has a wrong size");
}

// A walk over a part of the index; the bounds live as long as it does.
class IndexRange {
 public:
  IndexRange(const Engine& engine, const BodyIndexKey& from, const BodyIndexKey& end)
      : from_(from), end_(end), lower_(slice(from_.view())), upper_(slice(end_.view())) {
    rocksdb::ReadOptions options = iterator_options();
    options.iterate_lower_bound = &lower_;
    options.iterate_upper_bound = &upper_;
    iterator_.reset(engine.db->NewIterator(options, engine.body_index));
  }
  IndexRange(const IndexRange&) = delete;
  IndexRange& operator=(const IndexRange&) = delete;

  rocksdb::Iterator* operator->() const { return iterator_.get(); }

 private:
  const BodyIndexKey from_;
  const BodyIndexKey end_;
  const rocksdb::Slice lower_;
  const rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
};

}  // namespace

BodyTable::BodyTable(Engine& engine, const Watermarks& watermarks, std::shared_ptr<HeldBodies> held)
    : engine_(engine), watermarks_(watermarks), held_(std::move(held)) {}

Expected<> BodyTable::load() {
  Status status = each(BodyKey::kUnreferenced, [this](rocksdb::Slice key, rocksdb::Slice value) {
    if (value.size() != 4) return wrong_size();
    BodyId body = BodyIndexKey::id(key.data());
    unreferenced_[body] = get_be32(value.data());
    dead_.push_back(body);
    return Status::OK();
  });
  if (status.ok()) {
    status = each(BodyKey::kUnswept, [this](rocksdb::Slice key, rocksdb::Slice) {
      QueueId queue = BodyIndexKey::id(key.data());
      unswept_[queue] = {watermarks_.get(queue), true};
      return Status::OK();
    });
  }
  if (!status.ok()) return std::unexpected(to_error(status, "reading the index of bodies"));
  return {};
}

Status BodyTable::each(
    BodyKey kind, const std::function<Status(rocksdb::Slice key, rocksdb::Slice value)>& visit) {
  IndexRange range(engine_, {kind, 0}, {static_cast<BodyKey>(static_cast<char>(kind) + 1), 0});
  Status status;
  for (range->SeekToFirst(); status.ok() && range->Valid(); range->Next()) {
    status = range->key().size() == 9 ? visit(range->key(), range->value()) : wrong_size();
  }
  return status.ok() ? range->status() : status;
}

Expected<BodyId> BodyTable::next_id() const {
  std::unique_ptr<rocksdb::Iterator> last(
      engine_.db->NewIterator(iterator_options(), engine_.bodies));
  last->SeekToLast();
  if (!last->status().ok()) return std::unexpected(to_error(last->status(), "reading bodies"));
  if (!last->Valid()) return 1;
  if (last->key().size() != kChunkKeyBytes) {
    return fail(Code::kCorrupt, "the key of a chunk of a body has the wrong size");
  }
  return ChunkKey::body(last->key().data()) + 1;
}

bool BodyTable::has_refs(QueueId queue) const {
  IndexRange range(engine_, {queue, 0}, {queue + 1, 0});
  range->SeekToFirst();
  return range->Valid() || !range->status().ok();
}

void BodyTable::begin(rocksdb::WriteBatch& write) {
  write_ = &write;
  touched_.clear();
  new_refs_.clear();
}

Status BodyTable::put_chunk(const Batch::Chunk& chunk) {
  if (!held_->held(chunk.body)) return {};
  Touched* touched;
  if (auto status = touch(chunk.body, touched); !status.ok()) return status;
  touched->chunks = chunk.count;
  return write_->Put(engine_.bodies, slice(ChunkKey(chunk.body, chunk.index).view()), chunk.bytes);
}

Status BodyTable::append(QueueId queue, Sequence sequence, const Record& record) {
  if (record.external() == nullptr) return {};
  Refs* refs;
  if (auto status = find_refs(queue, refs); !status.ok()) return status;
  refs->first = std::min(refs->first, sequence);
  refs->last = std::max(refs->last, sequence);
  BodyId body = record.external()->id();
  Touched* touched;
  if (auto status = touch(body, touched); !status.ok()) return status;
  ++touched->refs;
  new_refs_[{queue, sequence}] = body;
  std::array<char, 8> value;
  put_be64(value.data(), body);
  return write_->Put(engine_.body_index, slice(BodyIndexKey(queue, sequence).view()),
                     slice_of(value));
}

Status BodyTable::remove(QueueId queue, Sequence sequence) {
  Refs* refs;
  if (auto status = find_refs(queue, refs); !status.ok()) return status;
  if (sequence < refs->first || sequence > refs->last) return {};
  if (auto found = new_refs_.extract({queue, sequence}); !found.empty()) {
    return drop_ref(queue, sequence, found.mapped());
  }
  std::string value;
  auto status =
      engine_.db->Get({}, engine_.body_index, slice(BodyIndexKey(queue, sequence).view()), &value);
  if (status.IsNotFound()) return {};
  if (status.ok() && value.size() != 8) status = wrong_size();
  return status.ok() ? drop_ref(queue, sequence, get_be64(value.data())) : status;
}

Status BodyTable::advance(QueueId queue, Sequence watermark) {
  Refs* refs;
  if (auto status = find_refs(queue, refs); !status.ok()) return status;
  if (refs->first < watermark) {
    Sweep& sweep = unswept_[queue];
    sweep.watermark = std::max(sweep.watermark, watermark);
  } else if (watermark == kDropped) {
    refs_.erase(queue);
  }
  return {};
}

// The first time that a queue is met, looks where its references lie.
Status BodyTable::find_refs(QueueId queue, Refs*& refs) {
  auto [found, fresh] = refs_.try_emplace(queue);
  refs = &found->second;
  if (!fresh) return {};
  IndexRange range(engine_, {queue, 0}, {queue + 1, 0});
  range->SeekToFirst();
  if (!range->Valid()) return range->status();
  refs->first = BodyIndexKey::sequence(range->key().data());
  range->SeekToLast();
  if (range->Valid()) refs->last = BodyIndexKey::sequence(range->key().data());
  return range->status();
}

Status BodyTable::touch(BodyId body, Touched*& touched) {
  auto [found, fresh] = touched_.try_emplace(body);
  touched = &found->second;
  if (!fresh) return {};
  if (auto marked = unreferenced_.find(body); marked != unreferenced_.end()) {
    touched->chunks = marked->second;
    return {};
  }
  std::string value;
  auto status = engine_.db->Get({}, engine_.body_index,
                                slice(BodyIndexKey(BodyKey::kCount, body).view()), &value);
  if (status.IsNotFound()) return {};
  if (!status.ok()) return status;
  if (value.size() != 8) return wrong_size();
  touched->refs = get_be32(value.data());
  touched->chunks = get_be32(value.data() + 4);
  touched->counted = true;
  return {};
}

Status BodyTable::drop_ref(QueueId queue, Sequence sequence, BodyId body) {
  Touched* touched;
  if (auto status = touch(body, touched); !status.ok()) return status;
  if (touched->refs == 0) return Status::Corruption("a body has more references than were counted");
  --touched->refs;
  return write_->Delete(engine_.body_index, slice(BodyIndexKey(queue, sequence).view()));
}

Status BodyTable::finish() {
  Status status;
  size_t budget = kSweepRefsMax;
  for (auto at = unswept_.begin(); status.ok() && budget > 0 && at != unswept_.end();) {
    bool done = false;
    status = sweep(at->first, at->second, budget, done);
    at = done ? unswept_.erase(at) : std::next(at);
  }
  // What the budget did not reach is found after a restart.
  for (auto& [queue, sweep] : unswept_) {
    if (!status.ok() || sweep.on_disk) continue;
    sweep.on_disk = true;
    status = write_->Put(engine_.body_index, slice(BodyIndexKey(BodyKey::kUnswept, queue).view()),
                         rocksdb::Slice());
  }
  for (const auto& [body, touched] : touched_) {
    if (status.ok()) status = settle(body, touched);
  }
  for (BodyId body : held_->take_released()) {
    if (unreferenced_.contains(body) && !held_->held(body)) dead_.push_back(body);
  }
  return status.ok() ? drop_dead() : status;
}

// Drops the references behind the watermark. New ones of this write are none of them: what is
// behind the watermark is not written.
Status BodyTable::sweep(QueueId queue, Sweep& sweep, size_t& budget, bool& done) {
  Refs* refs;
  if (auto status = find_refs(queue, refs); !status.ok()) return status;
  IndexRange range(engine_, {queue, 0}, {queue + 1, 0});
  if (refs->first == kNoRef) {
    range->SeekToFirst();
  } else {
    range->Seek(slice(BodyIndexKey(queue, refs->first).view()));
  }
  for (; range->Valid(); range->Next()) {
    Sequence sequence = BodyIndexKey::sequence(range->key().data());
    refs->first = sequence;
    if (sequence >= sweep.watermark) break;
    if (budget == 0) return {};
    --budget;
    if (range->value().size() != 8) return wrong_size();
    auto status = drop_ref(queue, sequence, get_be64(range->value().data()));
    if (!status.ok()) return status;
  }
  if (!range->status().ok()) return range->status();
  if (!range->Valid()) refs->first = kNoRef;
  auto next = new_refs_.lower_bound({queue, sweep.watermark});
  if (next != new_refs_.end() && next->first.first == queue) {
    refs->first = std::min(refs->first, next->first.second);
  }
  done = true;
  if (sweep.watermark == kDropped) refs_.erase(queue);
  if (!sweep.on_disk) return {};
  return write_->Delete(engine_.body_index, slice(BodyIndexKey(BodyKey::kUnswept, queue).view()));
}

// Counts the body or marks it.
Status BodyTable::settle(BodyId body, const Touched& touched) {
  const BodyIndexKey count_key(BodyKey::kCount, body);
  const BodyIndexKey mark_key(BodyKey::kUnreferenced, body);
  if (touched.refs > 0) {
    std::array<char, 8> value;
    put_be32(value.data(), touched.refs);
    put_be32(value.data() + 4, touched.chunks);
    auto status = write_->Put(engine_.body_index, slice(count_key.view()), slice_of(value));
    if (!status.ok() || unreferenced_.erase(body) == 0) return status;
    return write_->Delete(engine_.body_index, slice(mark_key.view()));
  }
  if (touched.counted) {
    auto status = write_->Delete(engine_.body_index, slice(count_key.view()));
    if (!status.ok()) return status;
  }
  if (!held_->held(body)) dead_.push_back(body);
  if (!unreferenced_.emplace(body, touched.chunks).second) return {};
  std::array<char, 4> value;
  put_be32(value.data(), touched.chunks);
  return write_->Put(engine_.body_index, slice(mark_key.view()), slice_of(value));
}

Status BodyTable::drop_dead() {
  for (size_t deleted = 0; !dead_.empty() && deleted < kDropChunksMax; dead_.pop_front()) {
    BodyId body = dead_.front();
    auto found = unreferenced_.find(body);
    if (found == unreferenced_.end()) continue;  // noted twice
    for (uint32_t index = 0; index < found->second; ++index, ++deleted) {
      auto status = write_->Delete(engine_.bodies, slice(ChunkKey(body, index).view()));
      if (!status.ok()) return status;
    }
    unreferenced_.erase(found);
    auto status = write_->Delete(engine_.body_index,
                                 slice(BodyIndexKey(BodyKey::kUnreferenced, body).view()));
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace sluice::storage
