#pragma once

#include "base/error.h"

namespace sluice::vmm {

class Machine;

// Runs one `syscall` instruction at CPL 3 in a throw-away VM and sees at which CPL it arrives.
Expected<void> detect_flavour(Machine& machine);

}  // namespace sluice::vmm
