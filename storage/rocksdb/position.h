#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "storage/store.h"

// A queue's row in the family `queues` (storage/FORMAT.md).
namespace sluice::storage {

// The row of a dropped queue is its watermark alone.
std::string encode_position(const Batch::Advance& advance);

// nullopt where the size is wrong. `queue` is left 0.
std::optional<Batch::Advance> decode_position(std::string_view row);

}  // namespace sluice::storage
