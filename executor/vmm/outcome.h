#pragma once

#include "executor/contract/call.h"

namespace sluice::vmm {

using executor::CallResult;
using executor::Ending;
using executor::Limits;
using executor::Outcome;
using executor::Program;

}  // namespace sluice::vmm
