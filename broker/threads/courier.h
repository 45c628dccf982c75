#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "broker/threads/standstill.h"

namespace sluice::broker {

inline constexpr unsigned kShardsMax = 64;

// Work for a shard, done on its thread. It holds on to what it needs.
using Mail = std::move_only_function<void()>;

// What the shards of a process share to reach each other.
class Mailroom {
 public:
  // Every shard, before any of them runs: it is numbered from 0 in the order of the calls. `wake`
  // is called from any thread, and makes the shard call work() soon.
  unsigned add(std::function<void()> wake);
  unsigned shard_count() const { return static_cast<unsigned>(boxes_.size()); }
  Standstill& standstill() { return standstill_; }

  // From any thread; in order. Mail for a shard that is stopping may not be done: whoever waits for
  // it must give up at some time.
  void post(unsigned shard, Mail mail);
  void post(unsigned shard, std::vector<Mail>& mails);

  // On the shard's thread: does what has come in, then stands still if another shard wants that.
  void work(unsigned shard);
  // While all others stand still: does what has come in for them.
  void work_for_others(unsigned shard);

  // Bytes of messages that were sent to a shard and have not reached it. From any thread.
  std::atomic<size_t>& bytes_under_way(unsigned shard) { return boxes_[shard]->bytes_under_way; }

 private:
  struct Box {
    std::function<void()> wake;
    std::mutex mutex;  // guards the list alone
    std::vector<Mail> list;
    std::deque<Mail> taken;  // the shard's
    std::atomic<size_t> bytes_under_way = 0;
  };
  static void work(Box& box);

  std::vector<std::unique_ptr<Box>> boxes_;
  Standstill standstill_;
};

// A shard's way to the others. What one turn of its loop sends to a shard arrives in one piece at
// the end of the turn, and is done there within one turn. Each arrival wakes a thread, which costs
// more than most mail. On the shard's thread.
class Courier {
 public:
  explicit Courier(Mailroom& mailroom, unsigned here);

  unsigned here() const { return here_; }
  unsigned shard_count() const { return mailroom_.shard_count(); }
  Mailroom& mailroom() { return mailroom_; }

  // To be done on another shard's thread after what was sent there before.
  void send(unsigned shard, Mail mail) {
    out_[shard].mail.push_back(std::move(mail));
    hurry(shard);
  }
  // The same for what nobody waits for: it may stay here until something else goes there, there is
  // much of it, or flush_all() is called.
  void send_later(unsigned shard, Mail mail) { out_[shard].mail.push_back(std::move(mail)); }
  void hurry(unsigned shard) { out_[shard].due = true; }
  // Changes when something leaves: until then what was sent is still here, and what is sent with
  // send() arrives in one piece.
  uint64_t flush_number() const { return flush_number_; }
  // At the end of each turn. True where something stays.
  bool flush();
  void flush_all();

  // Others stand still while it lives, and have done what this shard has sent them. See Standstill.
  class [[nodiscard]] Change {
   public:
    explicit Change(Courier& courier);
    bool outermost() const { return guard_.outermost(); }

   private:
    Standstill::Guard guard_;
  };

 private:
  Mailroom& mailroom_;
  const unsigned here_;
  struct Out {
    std::vector<Mail> mail;
    bool due = false;
  };
  std::vector<Out> out_;
  uint64_t flush_number_ = 1;
};

}  // namespace sluice::broker
