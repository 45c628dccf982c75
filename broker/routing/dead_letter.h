#pragma once

#include <cstdint>
#include <string_view>

#include "broker/amqp/table.h"
#include "broker/queue/queue.h"

namespace sluice::broker {

// Adds to `headers` why a message left `queue`, the way RabbitMQ documents it: `x-death`, an entry
// for each {queue, reason} with the newest first and a count, and x-first-death-*, x-last-death-*.
void add_death(amqp::Table& headers, const Queue& queue, const Entry& entry,
               std::string_view reason);

}  // namespace sluice::broker
