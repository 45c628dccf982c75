#include "broker/shard.h"

namespace sluice::broker {

namespace {

// How long mail stays that nobody waits for.
constexpr uint64_t kMailMs = 1;

}  // namespace

Shard::Shard(uv_loop_t* loop, storage::Store& store, Names& names, Mailroom& mailroom,
             unsigned number, net::Wakeup& wakeup, std::string node_name, size_t message_bytes_max,
             Journal::Failed failed)
    : loop_(loop),
      courier_(mailroom, number),
      resident_(message_bytes_max),
      journal_(store, loop, std::move(failed)),
      bodies_(store, journal_, loop),
      virtual_host_(names, store, journal_, resident_, bodies_, courier_),
      server_(loop, virtual_host_, std::move(node_name)),
      mail_timer_(loop, [this] { courier_.flush_all(); }),
      turn_end_(loop, [this, &wakeup] {
        // What is to leave the RAM may have to be written. Then the journal: what it finds durable
        // makes confirms due, which make output.
        resident_.turn_end();
        journal_.turn_end();
        server_.turn_end();
        if (courier_.flush() && !mail_timer_.active()) mail_timer_.start(kMailMs);
        // What these made to do has to wait for the next turn: let there be one.
        if (journal_.can_hand_over() || server_.has_output()) wakeup.send();
      }) {
  bodies_.wait_with([this](std::function<void()> callback) {
    virtual_host_.when_all_durable(std::move(callback));
  });
}

}  // namespace sluice::broker
