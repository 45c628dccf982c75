#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "broker/routing/virtual_host.h"

namespace sluice::broker {

// A channel's publisher confirms. Each publish in confirm mode gets the next tag; it is due at once
// or when the batches that it went into are durable. What is due is acknowledged with as few
// methods as can be: `multiple` where nothing older is outstanding.
class Confirms : public std::enable_shared_from_this<Confirms> {
 public:
  // Sends basic.ack to the client.
  using Send = std::function<void(uint64_t tag, bool multiple)>;
  // Called when something became due outside of publishing, so that flush() be called.
  using Due = std::function<void()>;

  Confirms(Send send, Due due) : send_(std::move(send)), due_(std::move(due)) {}

  void published_now() { mark(next_tag_, next_tag_ + 1), ++next_tag_; }
  // `shards` are those that store it, `host` this one's. What the channel acknowledged before it is
  // durable with it, on the shards `settled_on`.
  void published(VirtualHost& host, ShardSet shards, ShardSet settled_on);

  // Returns how many publishes it acknowledged.
  uint64_t flush();
  // The channel is gone: nothing is sent any more.
  void detach() { send_ = nullptr, due_ = nullptr; }

 private:
  struct Range {
    uint64_t first, end;
  };
  void mark(uint64_t first, uint64_t end);

  Send send_;
  Due due_;
  uint64_t next_tag_ = 1;
  // The tags that become due together: they go to the same shards, in one batch here and in one
  // piece to the others.
  struct Group {
    ShardSet shards;
    uint64_t batch;
    uint64_t flush;
    int missing;  // shards where they are not durable yet
    std::vector<Range> ranges;
  };
  std::shared_ptr<Group> group_;
  uint64_t oldest_ = 1;                 // all below are acknowledged
  std::map<uint64_t, uint64_t> ahead_;  // acknowledged above it: first -> end
  std::vector<Range> due_ranges_;
};

}  // namespace sluice::broker
