#pragma once

#include <string_view>

#include "broker/amqp/properties.h"
#include "broker/queue/policy.h"
#include "storage/record.h"

namespace sluice::broker {

// Adds to `properties` why a message left `queue`, the way RabbitMQ documents it. The header
// x-death has an entry for each {queue, reason}, the newest first, which says when that happened
// for the first time and counts how often it did; x-first-death-* and x-last-death-* are beside it.
// A message's own expiration goes into the entry, as it would end the message again.
void add_death(amqp::Properties& properties, std::string_view queue, const storage::Record& record,
               DeathReason reason);

// Whether a message whose x-death is in `headers` has died in `queue` before and no one rejected it
// since: nobody would ever end its going round.
bool comes_back(const amqp::Table& headers, std::string_view queue);

}  // namespace sluice::broker
