#include "storage/store.h"

#include <algorithm>

namespace sluice::storage {

bool Batch::empty() const {
  return ties.empty() && definitions.empty() && blobs.empty() && dropped_queues.empty() &&
         chunks.empty() && attempts.empty() && advances.empty() && removes.empty() &&
         unschedules.empty() && schedule_advances.empty() && expiring_queues.empty() &&
         remembers.empty() && dedup_advances.empty() &&
         std::ranges::all_of(appends, [](const Append& a) { return a.record == nullptr; }) &&
         std::ranges::all_of(schedules, [](const Schedule& s) { return s.record == nullptr; });
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
  schedules.clear();
  unschedules.clear();
  schedule_advances.clear();
  expiring_queues.clear();
  remembers.clear();
  dedup_advances.clear();
}

}  // namespace sluice::storage
