#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <uv.h>

#include "broker/amqp/wire.h"
#include "broker/queue/journal.h"
#include "storage/store.h"

namespace sluice::broker {

// An external body on its way in: what arrives goes to the journal chunk by chunk. Where this is
// destroyed before finish(), the store deletes what it has of it. On the shard's thread.
class BodyWriter {
 public:
  BodyWriter(storage::Store& store, Journal& journal, uint64_t bytes);

  uint64_t left() const { return left_; }
  // At most left() bytes.
  void add(amqp::Bytes bytes);
  // Once nothing is left.
  storage::BodyPtr finish();

 private:
  Journal& journal_;
  storage::BodyPtr body_;
  uint64_t left_;
  uint32_t next_chunk_ = 0;
  std::string chunk_;  // not yet whole
};

// A shard's external bodies. Reading waits for the disk, so it is done on the loop's threads for
// such work. On the shard's thread.
class Bodies {
 public:
  // kCorrupt where a chunk is missing or has the wrong size.
  using Read = std::function<void(Expected<std::string>)>;

  Bodies(storage::Store& store, Journal& journal, uv_loop_t* loop)
      : store_(store),
        journal_(journal),
        loop_(loop),
        when_durable_([this](auto callback) { journal_.when_durable(std::move(callback)); }) {}

  // Calls back when all is durable that any shard was given; this one's journal where not set.
  using WhenDurable = std::function<void(std::function<void()>)>;
  void wait_with(WhenDurable when_durable) { when_durable_ = std::move(when_durable); }

  BodyWriter writer(uint64_t bytes) { return {store_, journal_, bytes}; }

  // Reads `count` chunks from `first` on, which must be the body's; `done` is called on a later
  // turn. What is not committed yet is waited for.
  void read(storage::BodyPtr body, uint32_t first, uint32_t count, Read done);
  void read_whole(const storage::BodyPtr& body, Read done) {
    read(body, 0, storage::chunk_count(body->bytes()), std::move(done));
  }

 private:
  struct Work;
  void start(Work* work);
  void finished(Work* work);

  storage::Store& store_;
  Journal& journal_;
  uv_loop_t* loop_;
  WhenDurable when_durable_;
};

}  // namespace sluice::broker
