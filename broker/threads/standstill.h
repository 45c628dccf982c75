#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sluice::broker {

// Lets one of several threads change what all of them read without a lock: while it does, the
// others stand still at a place of their own choosing, between two pieces of work. For what is
// rare, because everybody waits. With one thread it costs nothing.
class Standstill {
 public:
  // Every thread that takes part, before any of them begins. `request` is called from any thread
  // and makes this one call stand() soon.
  void join(std::function<void()> request) { requests_.push_back(std::move(request)); }

  // For a member thread: waits while another one changes something.
  void stand();

  // While it lives no other member runs. Only on a member's thread; may be nested. Whoever waits
  // for it stands still meanwhile, so what was looked up before has to be looked up again.
  class [[nodiscard]] Guard {
   public:
    explicit Guard(Standstill& standstill) : standstill_(standstill) { standstill_.begin(); }
    ~Guard() { standstill_.end(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    // Not within another one.
    bool outermost() const { return standstill_.depth_ == 1; }

   private:
    Standstill& standstill_;
  };

 private:
  void begin();
  void end();

  std::vector<std::function<void()>> requests_;
  std::atomic<std::thread::id> holder_;
  int depth_ = 0;  // the holder's

  std::mutex mutex_;
  std::condition_variable changed_;
  bool taken_ = false;
  size_t standing_ = 0;  // members that wait, the holder apart
};

}  // namespace sluice::broker
