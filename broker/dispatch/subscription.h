#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/amqp/properties.h"
#include "broker/dispatch/functions.h"
#include "broker/queue/queue.h"
#include "broker/routing/virtual_host.h"

namespace sluice::broker {

// EXCHANGE/KEY: where results or failures are published.
struct Destination {
  std::string exchange;
  std::string routing_key;
};

struct SubscriptionSettings {
  std::string name;
  std::string queue;
  std::string function;
  uint32_t concurrency = 32;
  uint32_t attempts_max = 5;
  uint32_t backoff_min_ms = 100;
  uint32_t backoff_max_ms = 30'000;
  Destination on_failure;
  std::optional<Destination> result;
  bool paused = false;
  // A call takes up to so many records that are there, and waits so long for more.
  uint32_t batch_size = 1;
  uint32_t batch_window_ms = 0;
};

struct SubscriptionCounters {
  uint64_t calls = 0;
  // Messages: how often one was handed to a call, and how that ended.
  uint64_t records = 0;
  uint64_t succeeded = 0;
  uint64_t failed = 0;
  uint64_t retried = 0;
  uint64_t dead_lettered = 0;
};

// Hands a queue's messages to a function, in batches where that is asked for and the function
// speaks the function protocol. It takes messages only as far as they can be called at once: as
// many calls as its concurrency, of a batch each. A call's results and outputs are published, and
// its messages settled, in one commit. One that failed is tried again, alone, after a back-off that
// doubles, up to a number of attempts, and is then dead-lettered, also in one commit. A message is
// never given up otherwise.
//
// On the thread of its queue's shard; whatever comes from the dispatcher comes while that one
// stands still. Held by shared_ptr because calls outlive it.
class Subscription : public Consumer, public std::enable_shared_from_this<Subscription> {
 public:
  // `virtual_host` is the first shard's, where functions are called.
  Subscription(VirtualHost& virtual_host, Functions& functions, const Executor& executor,
               SubscriptionSettings settings);
  ~Subscription() override;

  const SubscriptionSettings& settings() const { return settings_; }
  const SubscriptionCounters& counters() const { return counters_; }
  size_t in_flight() const { return in_flight_; }
  size_t waiting_retry() const { return waiting_.size(); }
  // "running", "paused" or "waiting", and for what.
  std::string_view state() const;
  std::string state_reason() const;

  // Begins to take from the queue, if it exists.
  void attach(const std::shared_ptr<Queue>& queue);
  // Everything but the name and the queue may change.
  void change(SubscriptionSettings settings);
  // The executor or the function has changed: it may be able to take again.
  void wake();
  // What is out goes back to the queue; the results of calls in flight are ignored.
  void close();

  bool can_take() const override;
  void take(Queue& queue, Entry entry) override;
  void queue_deleted(Queue& queue) override;

 private:
  struct Call;
  // Why a message failed.
  struct Failure {
    std::string_view outcome;
    std::string_view message;
    std::string_view log;
  };
  bool can_call() const;
  bool serves() const;
  uint32_t batch_max() const;
  void gather(Entry entry);
  void start_gathered();
  void start_call(std::vector<Entry> entries);
  void run(const std::shared_ptr<Call>& call);
  void detach();
  uint64_t now_ms() const { return uv_now(host_->journal().loop()); }
  void finished(const std::shared_ptr<Call>& call, CallResult result);
  void settle(Call& call, const CallResult& result);
  void settle_answer(Call& call, const CallResult& result);
  // Why each record failed, as protocol::Answer::failures_by_record().
  using Failures = std::vector<const std::string_view*>;
  bool publish_results(const Call& call, const protocol::Answer& answer, Failures& failures);
  void publish_replies(const Call& call, const protocol::Answer& answer, const Failures& failures);
  bool publish_result(const amqp::Properties& input, const Destination& to, bool reply,
                      amqp::Bytes payload);
  CallResult undelivered(const CallResult& result) const;
  static amqp::Bytes properties_of(const Call& call, uint32_t record);
  void succeeded(const Entry& entry);
  void all_failed(Call& call, const CallResult& result);
  void failed(Entry& entry, const Failure& failure);
  bool dead_letter(const Entry& entry, const Failure& failure);
  std::optional<Destination> destination_of(const amqp::Properties& properties, bool& reply) const;
  void wait(Entry entry, uint64_t delay_ms);
  void retry_due();
  void give_back();
  void give_back_gathered();
  uint64_t backoff_ms(uint32_t attempts) const;

  VirtualHost& functions_host_;
  Functions& functions_;
  const Executor& executor_;
  SubscriptionSettings settings_;
  SubscriptionCounters counters_;
  std::shared_ptr<Queue> queue_;
  VirtualHost* host_ = nullptr;  // the queue's shard's, while there is one
  // Which attachment to a queue a call belongs to: older ones' results are ignored.
  uint64_t epoch_ = 0;
  size_t in_flight_ = 0;
  uint64_t in_flight_bytes_ = 0;
  std::map<const Call*, std::shared_ptr<Call>> calls_;
  // The next batch: complete, or as long as the window is open.
  std::vector<Entry> gathering_;
  uint64_t gathering_bytes_ = 0;
  bool gathered_ = false;  // it waits only to be called
  std::optional<net::Timer> window_timer_;
  // Failed messages by the loop time at which they are due. They take no slot meanwhile.
  std::multimap<uint64_t, Entry> waiting_;
  std::optional<net::Timer> retry_timer_;  // on the loop of the queue's shard
};

}  // namespace sluice::broker
