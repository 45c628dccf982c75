#include "broker/queue/bodies.h"

#include <algorithm>
#include <memory>

#include "base/check.h"

namespace sluice::broker {

using storage::kChunkBytes;

BodyWriter::BodyWriter(storage::Store& store, Journal& journal, uint64_t bytes)
    : journal_(journal), body_(store.new_body(bytes)), left_(bytes) {
  CHECK(bytes > 0);
}

void BodyWriter::add(amqp::Bytes bytes) {
  CHECK(bytes.size() <= left_);
  while (!bytes.empty()) {
    uint64_t whole = std::min<uint64_t>(kChunkBytes, chunk_.size() + left_);
    if (chunk_.empty()) chunk_.reserve(whole);
    amqp::Bytes part = bytes.first(std::min<uint64_t>(bytes.size(), whole - chunk_.size()));
    chunk_.append(amqp::as_text(part));
    bytes = bytes.subspan(part.size());
    left_ -= part.size();
    if (chunk_.size() < whole) return;
    journal_.put_chunk({body_->id(), next_chunk_++, storage::chunk_count(body_->bytes()),
                        std::exchange(chunk_, {})});
  }
}

storage::BodyPtr BodyWriter::finish() {
  CHECK(left_ == 0 && chunk_.empty());
  return std::move(body_);
}

// A read under way.
struct Bodies::Work {
  uv_work_t request;
  Bodies* bodies;
  storage::BodyPtr body;
  uint32_t first;
  uint32_t count;
  Read done;
  bool waited = false;  // for what was not committed
  Expected<std::string> bytes;

  void run();
};

// On a thread of the loop's pool.
void Bodies::Work::run() {
  std::string all;
  for (uint32_t index = first; index < first + count; ++index) {
    auto chunk = bodies->store_.read_chunk(body->id(), index);
    if (!chunk) {
      bytes = std::move(chunk);
      return;
    }
    uint64_t wanted = std::min<uint64_t>(kChunkBytes, body->bytes() - index * kChunkBytes);
    if (chunk->size() != wanted) {
      bytes = fail(Code::kCorrupt, "chunk " + std::to_string(index) + " of body " +
                                       std::to_string(body->id()) + " has " +
                                       std::to_string(chunk->size()) + " bytes instead of " +
                                       std::to_string(wanted));
      return;
    }
    if (count == 1) {
      all = std::move(*chunk);
    } else {
      if (all.empty()) all.reserve(std::min<uint64_t>(body->bytes(), count * kChunkBytes));
      all += *chunk;
    }
  }
  bytes = std::move(all);
}

void Bodies::read(storage::BodyPtr body, uint32_t first, uint32_t count, Read done) {
  CHECK(count > 0 && first + count <= storage::chunk_count(body->bytes()));
  auto* work = new Work{.request = {},
                        .bodies = this,
                        .body = std::move(body),
                        .first = first,
                        .count = count,
                        .done = std::move(done),
                        .bytes = {}};
  work->request.data = work;
  start(work);
}

void Bodies::start(Work* work) {
  int status = uv_queue_work(
      loop_, &work->request, [](uv_work_t* r) { static_cast<Work*>(r->data)->run(); },
      [](uv_work_t* r, int) {
        auto* done = static_cast<Work*>(r->data);
        done->bodies->finished(done);
      });
  CHECK(status == 0);
}

void Bodies::finished(Work* work) {
  if (!work->bytes && work->bytes.error().code == Code::kNotFound) {
    if (!work->waited) {
      // It is in a batch that is being written or gathers: by then it is there.
      work->waited = true;
      when_durable_([this, work] { start(work); });
      return;
    }
    work->bytes = fail(Code::kCorrupt, work->bytes.error().message);
  }
  std::unique_ptr<Work> owned(work);
  owned->done(std::move(owned->bytes));
}

}  // namespace sluice::broker
