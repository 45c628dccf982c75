#pragma once

#include "executor/contract/call.h"
#include "executor/process/wire.h"

namespace sluice::process {

// What a call's or an initialisation's end is called, in the KVM sandbox's terms, from what the
// init saw of a program that ended by itself, by a forbidden call or for its CPU time.
executor::Ending ending_of(const Ended& ended, const executor::Limits& limits);

}  // namespace sluice::process
