#include "broker/shard.h"

namespace sluice::broker {

Shard::Shard(uv_loop_t* loop, storage::Store& store, std::string node_name,
             size_t message_bytes_max, Journal::Failed failed)
    : loop_(loop),
      resident_(message_bytes_max),
      journal_(store, loop, std::move(failed)),
      bodies_(store, journal_, loop),
      virtual_host_(journal_, resident_, bodies_, "/"),
      server_(loop, virtual_host_, std::move(node_name)),
      posted_wakeup_(loop, [this] { run_posted(); }),
      turn_end_(loop, [this] {
        // What is to leave the RAM may have to be written. Then the journal: what it finds durable
        // makes confirms due, which make output.
        resident_.turn_end();
        journal_.turn_end();
        server_.turn_end();
        // What these made to do has to wait for the next turn: let there be one.
        if (journal_.can_hand_over() || server_.has_output()) posted_wakeup_.send();
      }) {}

void Shard::post(std::function<void()> work) {
  {
    std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(work));
  }
  posted_wakeup_.send();
}

void Shard::run_posted() {
  std::vector<std::function<void()>> work;
  {
    std::lock_guard lock(posted_mutex_);
    work.swap(posted_);
  }
  for (auto& item : work) item();
}

}  // namespace sluice::broker
