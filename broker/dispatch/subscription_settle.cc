#include <algorithm>

#include <spdlog/spdlog.h>

#include "broker/dispatch/limits.h"
#include "broker/dispatch/outputs.h"
#include "broker/dispatch/subscription_call.h"
#include "broker/routing/dead_letter.h"

// How a subscription's calls end: what one callback does here is one commit.
namespace sluice::broker {

using namespace dispatch;

namespace {

bool has_failed(const std::vector<const std::string_view*>& failures, uint32_t record) {
  return !failures.empty() && failures[record] != nullptr;
}

}  // namespace

void Subscription::settle(Call& call, const CallResult& result) {
  if (result.answer != nullptr && !result.answer->answer.failure) {
    settle_answer(call, result);
  } else if (result.ok()) {
    Entry& entry = call.entries.front();
    auto input = amqp::Properties::of_stored(entry.record->properties());
    bool reply = false;
    auto to = destination_of(input, reply);
    if (to && !publish_result(input, *to, reply, amqp::as_bytes(result.output))) {
      all_failed(call, undelivered(result));
    } else {
      succeeded(entry);
    }
  } else if (result.outcome == schema::Outcome::unavailable) {
    // Nothing ran, so nothing was tried.
    for (Entry& entry : call.entries) wait(std::move(entry), kRestartMaxMs);
  } else if (result.executor_lost && !call.entries.front().failed_over) {
    // The function may not be to blame: once, this does not count.
    for (Entry& entry : call.entries) {
      entry.failed_over = true;
      wait(std::move(entry), kRestartMinMs);
    }
  } else {
    all_failed(call, result);
  }
}

void Subscription::settle_answer(Call& call, const CallResult& result) {
  const protocol::Answer& answer = result.answer->answer;
  // On the first shard that was checked in this turn.
  bool checked = host_ == &functions_host_;
  if (auto possible = checked ? Expected<>() : check_answer(answer, *host_); !possible) {
    return all_failed(call, {.outcome = schema::Outcome::bad_answer,
                             .message = possible.error().message,
                             .log = result.log,
                             .answer = result.answer});
  }
  auto failures = answer.failures_by_record(static_cast<uint32_t>(call.entries.size()));
  if (settings_.result && !publish_results(call, answer, failures)) {
    return all_failed(call, undelivered(result));
  }
  publish_replies(call, answer, failures);
  publish_outputs(answer, *host_);
  std::string log;
  if (!failures.empty()) log = log_of(result);
  for (uint32_t record = 0; record < call.entries.size(); ++record) {
    if (has_failed(failures, record)) {
      failed(call.entries[record], {"failed", *failures[record], log});
    } else {
      succeeded(call.entries[record]);
    }
  }
}

// Those with one destination for all records go first, that of the whole before: if it takes
// nothing, nothing of the call was published and all of it is tried again. One that it takes no
// more fails its record.
bool Subscription::publish_results(const Call& call, const protocol::Answer& answer,
                                   Failures& failures) {
  static constexpr std::string_view kUndelivered =
      "the result could not be delivered: no queue took it";
  bool any = false;
  for (bool whole : {true, false}) {
    for (const auto& given : answer.results) {
      if (given.record.has_value() == whole) continue;
      bool reply = false;
      amqp::Properties input;
      if (!whole) {
        if (has_failed(failures, *given.record)) continue;
        input = amqp::Properties::of_stored(properties_of(call, *given.record));
        destination_of(input, reply);
      }
      if (reply) continue;
      if (publish_result(input, *settings_.result, false, given.payload)) {
        any = true;
      } else if (!any) {
        return false;
      } else if (whole) {
        ++host_->counters().dropped_unroutable;
      } else {
        failures.resize(call.entries.size());
        failures[*given.record] = &kUndelivered;
      }
    }
  }
  return true;
}

void Subscription::publish_replies(const Call& call, const protocol::Answer& answer,
                                   const Failures& failures) {
  for (const auto& given : answer.results) {
    if (!given.record || has_failed(failures, *given.record)) continue;
    auto input = amqp::Properties::of_stored(properties_of(call, *given.record));
    bool reply = false;
    auto to = destination_of(input, reply);
    if (reply) publish_result(input, *to, true, given.payload);
  }
}

amqp::Bytes Subscription::properties_of(const Call& call, uint32_t record) {
  return call.entries[record].record->properties();
}

std::optional<Destination> Subscription::destination_of(const amqp::Properties& properties,
                                                        bool& reply) const {
  reply = properties.reply_to && !properties.reply_to->empty();
  if (reply) return Destination{"", *properties.reply_to};
  return settings_.result;
}

// False where it is lost unless it is made again. A reply that nobody waits for any more is the
// caller's affair.
bool Subscription::publish_result(const amqp::Properties& input, const Destination& to, bool reply,
                                  amqp::Bytes payload) {
  amqp::Properties properties;
  properties.headers = input.headers;
  // RPC clients look for the correlation id, and some for the request's message id in it.
  properties.correlation_id = input.correlation_id ? input.correlation_id : input.message_id;
  properties.delivery_mode = amqp::Properties::kPersistent;
  std::string encoded = properties.encode();
  auto sent =
      host_->publish_with_changes({to.exchange, to.routing_key, amqp::as_bytes(encoded), payload});
  if (sent && sent->taken_count() > 0) return true;
  if (reply) ++host_->counters().dropped_unroutable;
  return reply;
}

CallResult Subscription::undelivered(const CallResult& result) const {
  CallResult undelivered = result;
  const Destination& to = *settings_.result;
  undelivered.outcome = schema::Outcome::internal;
  undelivered.answer_failed = false;
  undelivered.message =
      "the result could not be delivered: " +
      (host_->exchanges().contains(to.exchange)
           ? "no queue is bound for '" + to.exchange + "/" + to.routing_key + "', or it is full"
           : "there is no exchange '" + to.exchange + "'");
  return undelivered;
}

void Subscription::succeeded(const Entry& entry) {
  ++counters_.succeeded;
  ++host_->counters().acked;
  queue_->settle(entry);
}

void Subscription::all_failed(Call& call, const CallResult& result) {
  std::string log = log_of(result);
  for (Entry& entry : call.entries) failed(entry, {result.outcome_name(), result.message, log});
}

void Subscription::failed(Entry& entry, const Failure& failure) {
  ++counters_.failed;
  ++entry.attempts;
  if (entry.attempts < settings_.attempts_max) {
    queue_->note_attempts(entry);
    ++counters_.retried;
    wait(std::move(entry), backoff_ms(entry.attempts));
    return;
  }
  if (dead_letter(entry, failure)) {
    ++counters_.dead_lettered;
    queue_->settle(entry);
    return;
  }
  // Kept rather than lost, until the destination is there again.
  queue_->note_attempts(entry);
  wait(std::move(entry), std::max<uint64_t>(settings_.backoff_max_ms, kRestartMaxMs));
}

bool Subscription::dead_letter(const Entry& entry, const Failure& failure) {
  auto properties = amqp::Properties::of_stored(entry.record->properties());
  add_death(properties, queue_->name(), *entry.record, DeathReason::kRejected);
  amqp::Table& headers = *properties.headers;
  headers.set("x-sluice-subscription", settings_.name);
  headers.set("x-sluice-function", settings_.function);
  headers.set("x-sluice-outcome", std::string(failure.outcome));
  headers.set("x-sluice-error", std::string(protocol::cut_text(failure.message, kMessageMaxBytes)));
  headers.set("x-sluice-attempts", static_cast<int64_t>(entry.attempts));
  std::string_view log = failure.log;
  log.remove_prefix(log.size() - std::min(log.size(), kDeadLetterLogBytes));
  headers.set("x-sluice-log", std::string(log));
  properties.delivery_mode = amqp::Properties::kPersistent;
  std::string encoded = properties.encode();
  const Destination& to = settings_.on_failure;
  auto sent = host_->publish_with_changes({to.exchange, to.routing_key, amqp::as_bytes(encoded),
                                           entry.record->body(), entry.record->external()});
  if (sent && sent->taken_count() > 0) {
    ++host_->counters().dead_lettered;
    return true;
  }
  spdlog::error(
      "subscription {}: a failed message can not be dead-lettered to '{}/{}' ({}); it is "
      "kept and tried again",
      settings_.name, to.exchange, to.routing_key,
      sent ? "no queue is bound there" : sent.error().text);
  return false;
}

}  // namespace sluice::broker
