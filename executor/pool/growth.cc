// How many sandboxes there are: more when calls wait or the rate says so, fewer when nobody needs
// them or memory is short.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "executor/pool/limits.h"
#include "executor/pool/memory.h"
#include "executor/pool/pools.h"

namespace sluice::executor {

// Whether one more would let a call run that waits now.
bool Pools::calls_want_another(const Function& f) const {
  if (f.state != Function::State::kReady || f.size() >= f.lane.limit()) return false;
  size_t coming = f.making + f.idle.size();
  return f.lane.waiting() > coming && f.lane.running() + coming < f.lane.share();
}

// Makes what the calls that wait need, as far as there is room; for the rest it waits in turn.
void Pools::grow(Function& f) {
  if (f.wants_room) return;  // its turn will come
  while (calls_want_another(f)) {
    if (f.make_after_ns > clock_.now_ns() && f.size() > 0) return;  // a tick looks again
    size_t mine = std::max<size_t>(1, options_.making_max / kMakingShare);
    bool may_make = making_ < options_.making_max && f.making < mine;
    if (!may_make || make_room(f) != Room::kNow) return queue_for_room(f);
    begin_seat(f);
  }
}

// Makes what the target asks for and no call waits for yet. Nobody loses anything for it.
void Pools::grow_ahead(Function& f, int64_t now_ns) {
  if (f.state != Function::State::kReady || f.draining || f.make_after_ns > now_ns) return;
  if (!growers_.empty()) return;
  while (f.size() < f.target && making_ < options_.making_max && fits(next_seat_bytes(f), true)) {
    begin_seat(f);
  }
}

void Pools::queue_for_room(Function& f) {
  if (f.wants_room) return;
  f.wants_room = true;
  growers_.push_back(&f);
}

// Lets so many of those that wait try once more, who has least of its fair share first.
void Pools::grow_others(size_t count) {
  if (growers_.size() > 1) sort_growers();
  for (count = std::min(count, growers_.size()); count > 0 && !growers_.empty(); count--) {
    Function& f = *growers_.front();
    growers_.pop_front();
    f.wants_room = false;
    grow(f);
  }
}

void Pools::sort_growers() {
  std::vector<Function*> functions;
  std::vector<MemoryUse> uses = memory_uses(functions);
  std::vector<Excess> all = excesses(uses, options_.memory_budget_bytes);
  for (size_t i = 0; i < all.size(); i++) functions[i]->excess = all[i];
  // Stable: equals take turns.
  growers_.sort([](const Function* a, const Function* b) { return a->excess < b->excess; });
}

void Pools::begin_seat(Function& f) {
  auto seat = std::make_unique<Seat>(*this, f);
  f.making++;
  making_++;
  seats_++;
  account(f, *seat, next_seat_bytes(f));
  to_start_.push_back(std::move(seat));
  note_change();
}

uint64_t Pools::next_seat_bytes(const Function& f) const {
  return f.last_seat_bytes != 0 ? f.last_seat_bytes : kSandboxBytesGuess;
}

bool Pools::fits(uint64_t more, bool those_leaving) const {
  uint64_t bytes = bytes_ - (those_leaving ? 0 : leaving_bytes_);
  size_t seats = seats_ - (those_leaving ? 0 : leaving_);
  return bytes + more <= options_.memory_budget_bytes && seats < kSandboxesMax;
}

// Room for one more sandbox, at the cost of others if need be.
Pools::Room Pools::make_room(Function& f) {
  uint64_t more = next_seat_bytes(f);
  if (fits(more, true)) return Room::kNow;
  bool first = f.size() == 0;
  while (!fits(more, false)) {
    if (!evict_one(first ? nullptr : &f, more, false)) break;
  }
  if (fits(more, false)) return Room::kSoon;
  if (!first) return Room::kNone;
  // A function always may have one.
  return leaving_ > 0 ? Room::kSoon : Room::kNow;
}

// Of those that take part, in the order of `functions`.
std::vector<MemoryUse> Pools::memory_uses(std::vector<Function*>& functions) {
  std::vector<MemoryUse> uses;
  for (Function& f : functions_) {
    if (!f.active()) continue;
    functions.push_back(&f);
    uses.push_back({.owner = &f.owner,
                    .bytes = f.bytes,
                    .idle = !f.idle.empty(),
                    .idle_since_ns = f.idle.empty() ? 0 : f.idle.front()->since_ns});
  }
  return uses;
}

bool Pools::evict_one(Function* grower, uint64_t more, bool above_share) {
  if (idle_ == 0) return false;
  std::vector<Function*> functions;
  std::vector<MemoryUse> uses = memory_uses(functions);
  std::optional<size_t> grows;
  if (grower != nullptr) {
    auto found = std::find(functions.begin(), functions.end(), grower);
    CHECK(found != functions.end());
    grows = static_cast<size_t>(found - functions.begin());
  }
  auto victim = choose_victim(uses, options_.memory_budget_bytes, above_share, grows, more);
  if (!victim) return false;
  evict(*functions[*victim]);
  return true;
}

// The idle sandbox that was not used for longest goes.
void Pools::evict(Function& f) {
  CHECK(!f.idle.empty());
  Seat* seat = f.idle.front();
  f.idle.pop_front();
  idle_--;
  queue_.remove_seat(f.lane);
  f.leaving++;
  leaving_++;
  leaving_bytes_ += seat->bytes;
  seat->leave = true;
  seat->wake.notify_one();
  note_change();
}

void Pools::evict_all(Function& f) {
  while (!f.idle.empty()) evict(f);
}

void Pools::keep_to_budget(bool above_share) {
  while (bytes_ - leaving_bytes_ > options_.memory_budget_bytes) {
    if (!evict_one(nullptr, 0, above_share)) return;
  }
}

// What a sandbox takes of the budget, from now on.
void Pools::account(Function& f, Seat& seat, uint64_t bytes) {
  f.bytes = f.bytes - seat.bytes + bytes;
  f.sandbox_bytes = f.sandbox_bytes - seat.bytes + bytes;
  bytes_ = bytes_ - seat.bytes + bytes;
  seat.bytes = bytes;
  if (bytes != 0) f.last_seat_bytes = bytes;
}

void Pools::shrink(Function& f, int64_t now_ns) {
  if (now_ns - f.last_call_ns >= kIdleSeconds * 1'000'000'000) {
    f.target = 0;
    if (f.lane.waiting() == 0) evict_all(f);
    return;
  }
  while (f.size() > f.target && !f.idle.empty() &&
         now_ns - f.idle.front()->since_ns >= kSpareSeconds * 1'000'000'000) {
    evict(f);
  }
}

}  // namespace sluice::executor
