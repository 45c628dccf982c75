#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <pthread.h>

#include "executor/pool/clock.h"
#include "executor/pool/function.h"

namespace sluice::executor {

// Runs calls in sandboxes: a pool of them for each function, which nobody else gets.
//
// A sandbox has a thread of its own, from clone to destruction. A call goes to the idle sandbox of
// its function that was used last; if there is none it waits in the function's lane for the first
// that is free, and one is made if the function may have another. Lanes share the run slots in turn
// (FairQueue). A thread that ends a call takes the next itself where that is its own function's.
//
// Threads: any may call. One mutex guards everything; it is held for a few list operations, never
// while a sandbox is made, called or destroyed, a thread is started, or an answer is given, and no
// other lock is taken under it. Beside the sandboxes' threads there is the pacer, which looks at
// demand ten times a second while calls come, and sleeps when there is nothing to do.
//
// Memory: sandboxes and snapshots stay within the budget, but for this: a function that has a call
// and no sandbox gets one, if nothing idle can go for it. (A sandbox that grew in a call is over
// only until idle ones went.) Calls then wait for sandboxes that exist.
//
// Every call is answered exactly once, whatever happens to its function or its sandbox.
class Pools {
 public:
  struct Options {
    size_t slots = 1;       // calls in a sandbox at the same time, those asleep not counted
    size_t share = 1;       // of them, how many one function may have
    size_t making_max = 4;  // sandboxes that are made at the same time
    uint64_t memory_budget_bytes = 0;  // 0: default_memory_budget()
    size_t queued_calls_max = 65536;
    uint64_t queued_bytes_max = 512ull << 20;
    const Clock* clock = nullptr;  // null: the machine's; must outlive the pools
    bool paced = true;             // otherwise tick() is the caller's
    // From any thread, without a lock. May block, which then holds up that sandbox.
    std::function<void(uint64_t call, const CallResult& result)> answer;
    // About once a second while anything changes, on the pacer. May be null.
    std::function<void(const PoolStats& stats)> stats;
  };

  explicit Pools(Options options);
  // Waits until all that was accepted is answered. No load may be under way.
  ~Pools();
  Pools(const Pools&) = delete;
  Pools& operator=(const Pools&) = delete;

  // A function that is being loaded. Its calls wait. Takes the place of one with the same number,
  // which ends as if unloaded. `concurrency` as in schema::Load. The pointer is good until loaded()
  // or failed(), one of which must follow.
  Function* add(uint64_t number, std::string owner, size_t concurrency);
  void loaded(Function* function, std::shared_ptr<const Image> image);
  // Its calls are answered so.
  void failed(Function* function, Outcome outcome, std::string message);
  // Calls that were accepted end as if nothing had happened. Nothing to do where it is not known.
  void unload(uint64_t number);
  // Blocks while as much is queued as may be.
  void invoke(uint64_t number, Call call);

  PoolStats stats();
  // What the pacer does when its time has come.
  void tick();
  // Until every call is answered, and no sandbox is being made or destroyed.
  void wait_idle();

 private:
  friend struct Seat;
  using Lock = std::unique_lock<std::mutex>;
  enum class Room { kNow, kSoon, kNone };

  // pools.cc: functions and calls.
  void answer(uint64_t call, Outcome outcome, std::string message);
  void schedule();
  bool quiet() const;
  void tell_if_quiet();
  void unload(Function& function);
  void free_if_drained(Function& function);
  PoolStats stats_locked() const;

  // seats.cc: a sandbox's thread.
  void work_unlocked(Lock& lock);
  void serve(std::unique_ptr<Seat> seat);
  void serve_calls(Lock& lock, Seat& seat, Sandbox& sandbox);
  void made(Seat& seat, uint64_t bytes, int64_t took_ns);
  void not_made(Lock& lock, Seat& seat, const Error& error);
  void ended(Seat& seat, const CallResult& result, bool ready, uint64_t bytes, int64_t service_ns);
  void left(Seat& seat);
  void release(Seat& seat);
  void acquire(Seat& seat, int64_t deadline_ns);

  // growth.cc: how many sandboxes there are.
  bool calls_want_another(const Function& function) const;
  void grow(Function& function);
  void grow_ahead(Function& function, int64_t now_ns);
  void grow_others(size_t count);
  void queue_for_room(Function& function);
  void begin_seat(Function& function);
  uint64_t next_seat_bytes(const Function& function) const;
  Room make_room(Function& function);
  bool fits(uint64_t more, bool those_leaving) const;
  std::vector<MemoryUse> memory_uses(std::vector<Function*>& functions);
  void sort_growers();
  bool evict_one(Function* grower, uint64_t more, bool above_share);
  void evict(Function& function);
  void evict_all(Function& function);
  void keep_to_budget(bool above_share);
  void account(Function& function, Seat& seat, uint64_t bytes);
  void shrink(Function& function, int64_t now_ns);

  // pacer.cc
  void pace();
  void tick(Lock& lock);
  int64_t tick_after_ms() const;
  void note_change();
  void send_stats(Lock& lock, int64_t now_ns);

  Options options_;
  SteadyClock steady_clock_;
  const Clock& clock_;

  std::mutex mutex_;
  CallQueue queue_;
  std::list<Function> functions_;  // those that drain too
  std::unordered_map<uint64_t, Function*> by_number_;
  std::condition_variable room_;   // fewer calls are queued
  std::condition_variable quiet_;  // see wait_idle()
  size_t queued_bytes_ = 0;
  size_t waiting_for_room_ = 0, waiting_for_quiet_ = 0;

  std::list<Function*> growers_;  // want a sandbox and wait for memory or for makers
  int64_t give_back_at_ns_ = 0;
  std::vector<std::unique_ptr<Seat>> to_start_;
  std::vector<std::shared_ptr<const Image>> to_free_;
  size_t seats_ = 0;  // threads, from the decision to their end
  size_t making_ = 0, busy_ = 0, idle_ = 0, leaving_ = 0;
  uint64_t bytes_ = 0;                     // sandboxes, those being made included, and snapshots
  uint64_t leaving_bytes_ = 0;             // of them, those that go
  std::optional<pthread_t> ended_thread_;  // to be joined, by the next that ends

  std::condition_variable pacer_wake_;
  bool changed_ = false;     // since the last statistics
  bool calls_came_ = false;  // since the last tick
  bool pacer_parked_ = false;
  bool stopping_ = false;
  int64_t stats_sent_ns_ = 0;
  std::jthread pacer_;
};

}  // namespace sluice::executor
