#include "broker/queue/resident_set.h"

#include <algorithm>

#include "broker/queue/backlog.h"
#include "broker/queue/limits.h"
#include "storage/record.h"

namespace sluice::broker {

bool ResidentSet::pressed() const { return storage::Record::resident_bytes() > bytes_max_; }

void ResidentSet::add(Backlog* backlog) {
  if (backlog->residence_) return;
  backlog->residence_ = backlogs_.insert(backlogs_.end(), backlog);
}

void ResidentSet::remove(Backlog* backlog) {
  if (!backlog->residence_) return;
  backlogs_.erase(*backlog->residence_);
  backlog->residence_.reset();
}

void ResidentSet::turn_end() {
  // What is not on disk yet stays, so one round may not help: the next turn goes on.
  size_t visits = std::min(backlogs_.size(), kShrinksPerTurn);
  for (; visits > 0 && !backlogs_.empty() && pressed(); --visits) {
    backlogs_.splice(backlogs_.end(), backlogs_, backlogs_.begin());
    backlogs_.back()->shrink(kWindowMinBytes);
  }
}

}  // namespace sluice::broker
