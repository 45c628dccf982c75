#include "storage/store.h"

#include <algorithm>

namespace sluice::storage {

bool Batch::empty() const {
  return ties.empty() && definitions.empty() && blobs.empty() && dropped_queues.empty() &&
         chunks.empty() && attempts.empty() && advances.empty() && removes.empty() &&
         std::ranges::all_of(appends, [](const Append& a) { return a.record == nullptr; });
}

void Batch::clear() {
  ties.clear();
  definitions.clear();
  blobs.clear();
  dropped_queues.clear();
  chunks.clear();
  appends.clear();
  attempts.clear();
  advances.clear();
  removes.clear();
}

}  // namespace sluice::storage
