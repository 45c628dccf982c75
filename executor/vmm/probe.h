#pragma once

#include "base/error.h"

namespace sluice::vmm {

class Machine;

// Runs a few instructions at CPL 3 in a throw-away VM: at which CPL a `syscall` arrives, and whose
// time stamp counter the program reads.
Expected<void> probe(Machine& machine);

}  // namespace sluice::vmm
