#pragma once

#include <string>

#include "base/error.h"
#include "broker/dispatch/executor.h"
#include "broker/dispatch/protocol.h"
#include "broker/routing/virtual_host.h"

// What becomes of an answer besides its results. On the thread of the shard whose `host` is given.
namespace sluice::broker {

// Whether what the answer asks for can be done: its outputs' exchanges exist and may be published
// to, and it has no state, for which there is no place yet. kInvalid, and the message names what is
// wrong.
Expected<> check_answer(const protocol::Answer& answer, const VirtualHost& host);

// Publishes the outputs, in one commit with what this callback changes otherwise. Only after
// check_answer(). What no queue takes is counted as dropped, like any publish.
void publish_outputs(const protocol::Answer& answer, VirtualHost& host);

// What the call wrote: stderr, then the answer's log lines, each with its level.
std::string log_of(const CallResult& result);

}  // namespace sluice::broker
