#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "executor/contract/backend.h"
#include "executor/pool/demand.h"
#include "executor/pool/fair_queue.h"
#include "executor/pool/memory.h"
#include "executor/pool/stats.h"

// What Pools keeps for each function and each of its sandboxes. All of it is guarded by the pools'
// mutex unless it says otherwise.
namespace sluice::executor {

class Pools;
struct Function;

// A call as it came: the frame is kept, because the input lies in it.
struct Call {
  uint64_t id = 0;
  std::vector<uint8_t> frame;
  std::span<const uint8_t> input;  // in `frame`
};

struct WaitingCall {
  Call call;
  bool warm = false;  // it found a sandbox that was waiting
};

// A sandbox and its thread, which owns this object from its first to its last line. The sandbox
// itself is on that thread's stack, since nobody else may touch it.
struct Seat final : Slot {
  Seat(Pools& pools, Function& function) : pools(pools), function(function) {}

  // During a call, on the seat's thread.
  void release() override;
  void acquire(int64_t deadline_ns) override;

  Pools& pools;
  Function& function;
  std::condition_variable wake;  // one of the three below became true
  bool called = false;           // `waiting` is its next call
  bool leave = false;            // no more calls
  bool goes_on = false;          // it slept, and has a slot again
  WaitingCall waiting;
  bool fresh = true;      // has had no call yet
  bool cold = false;      // the call that it has waited for it to be made
  uint64_t bytes = 0;     // of the memory budget; a guess until it is made
  int64_t since_ns = 0;   // idle since
  int64_t asleep_ns = 0;  // of this call. Its thread's own, as is:
  int64_t slept_at_ns = 0;
};

using CallQueue = FairQueue<WaitingCall, Seat*, Function>;

// A function version that the broker loaded, and its pool.
struct Function {
  enum class State { kLoading, kReady, kFailed };

  Function(uint64_t number, std::string owner, size_t share, size_t limit, int64_t now_ns)
      : number(number), owner(std::move(owner)), lane(this, share, limit), demand(now_ns) {}

  // Sandboxes that there are or will be.
  size_t size() const { return making + idle.size() + busy; }
  // Whether it takes part in sharing memory: it has sandboxes, or needs one.
  bool active() const { return size() + leaving + lane.waiting() > 0; }

  const uint64_t number;
  const std::string owner;
  State state = State::kLoading;
  bool draining = false;               // unloaded: it ends with what it has accepted
  std::shared_ptr<const Image> image;  // once ready; does not change then
  Ending failure;                      // once failed

  CallQueue::Lane lane;
  std::deque<Seat*> idle;  // the last used at the back
  size_t making = 0, busy = 0, leaving = 0;
  Excess excess;                 // when it was last looked at
  bool wants_room = false;       // it is in Pools::growers_
  int64_t make_after_ns = 0;     // the system refused one: not before
  uint64_t bytes = 0;            // sandboxes and snapshot
  uint64_t sandbox_bytes = 0;    // the sandboxes
  uint64_t last_seat_bytes = 0;  // what one needed lately; 0: not known

  Demand demand;
  size_t target = 0;
  int64_t last_call_ns = 0;
  FunctionStats counts;

  std::list<Function>::iterator self;
};

}  // namespace sluice::executor
