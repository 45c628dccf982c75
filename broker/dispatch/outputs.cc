#include "broker/dispatch/outputs.h"

#include <chrono>

namespace sluice::broker {

namespace {

int64_t ready_at(uint64_t delay_ms) {
  if (delay_ms == 0) return 0;
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count() +
         static_cast<int64_t>(delay_ms);
}

}  // namespace

Expected<> check_answer(const protocol::Answer& answer, const VirtualHost& host) {
  if (answer.state) {
    return fail(Code::kInvalid,
                "the answer has a state, but the subscription keeps none: it is not stateful");
  }
  for (const auto& output : answer.outputs) {
    protocol::OutputTarget message = protocol::read_target(output);
    auto found = host.exchanges().find(message.exchange);
    if (found == host.exchanges().end()) {
      return fail(Code::kInvalid, "an output is for the exchange '" +
                                      std::string(message.exchange) + "', which does not exist");
    }
    if (found->second->settings().internal) {
      return fail(Code::kInvalid, "an output is for the exchange '" +
                                      std::string(message.exchange) +
                                      "', which is internal: nobody can publish to it");
    }
    if (message.exchange.empty() && !host.queues().contains(message.routing_key)) {
      return fail(Code::kInvalid, "an output is for the queue '" +
                                      std::string(message.routing_key) + "', which does not exist");
    }
  }
  return {};
}

void publish_outputs(const protocol::Answer& answer, VirtualHost& host) {
  for (const auto& output : answer.outputs) {
    protocol::OutputMessage message = protocol::read_output(output);
    message.properties.delivery_mode = amqp::Properties::kPersistent;
    std::string properties = message.properties.encode();
    auto sent = host.publish_with_changes({.exchange = message.exchange,
                                           .routing_key = message.routing_key,
                                           .properties = amqp::as_bytes(properties),
                                           .body = message.body,
                                           .external = nullptr,
                                           .ready_at_ms = ready_at(message.delay_ms)});
    if (!sent || sent->taken_count() == 0) ++host.counters().dropped_unroutable;
  }
}

std::string log_of(const CallResult& result) {
  std::string log = result.log;
  if (result.answer == nullptr) return log;
  for (const auto& line : result.answer->answer.logs) {
    if (!log.empty() && log.back() != '\n') log += '\n';
    log += protocol::Answer::kLevelNames[line.level];
    log += ": ";
    log += line.text;
    if (!line.text.ends_with('\n')) log += '\n';
  }
  return log;
}

}  // namespace sluice::broker
