#include "broker/routing/queue_arguments.h"

#include <algorithm>
#include <array>

namespace sluice::broker {

namespace {

using amqp::refuse;
using amqp::ReplyCode;

constexpr std::array kNotBuilt = {
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-overflow",
    "x-max-priority",
    "x-max-length-bytes",
    "x-single-active-consumer",
    "x-consumer-timeout",
    "x-delivery-limit",
};

std::string invalid(std::string_view name, std::string_view why) {
  return "invalid arg '" + std::string(name) + "': " + std::string(why);
}

}  // namespace

amqp::Outcome<> check_queue_arguments(const amqp::Table& arguments) {
  for (const auto& [name, field] : arguments.fields) {
    if (std::ranges::find(kNotBuilt, name) != kNotBuilt.end()) {
      return refuse(ReplyCode::kPreconditionFailed, invalid(name, "not supported by this broker"));
    }
    bool wants_text = name == "x-dead-letter-exchange" || name == "x-dead-letter-routing-key" ||
                      name == "x-queue-type" || name == "x-queue-mode";
    if (wants_text && field.text() == nullptr) {
      return refuse(ReplyCode::kPreconditionFailed, invalid(name, "must be a string"));
    }
    if (name == "x-queue-type" && *field.text() != "classic" && *field.text() != "quorum") {
      return refuse(ReplyCode::kPreconditionFailed,
                    invalid(name, "'" + *field.text() + "' is not one of classic, quorum"));
    }
  }
  if (arguments.find("x-dead-letter-routing-key") != nullptr &&
      arguments.find("x-dead-letter-exchange") == nullptr) {
    return refuse(ReplyCode::kPreconditionFailed,
                  invalid("x-dead-letter-routing-key", "needs x-dead-letter-exchange"));
  }
  return {};
}

}  // namespace sluice::broker
