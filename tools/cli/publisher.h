#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/cli/amqp_client.h"

namespace sluice::cli {

// What a message carries besides its body.
struct PublishProperties {
  std::vector<std::pair<std::string, std::string>> headers;  // long strings
  std::string correlation_id;                                // "" leaves a property out, as below
  std::string reply_to;
  std::string content_type;
};

// Publishes persistent, mandatory messages in confirm mode, at most kConfirmWindow of them
// unconfirmed. The client outlives it and is used by nothing else meanwhile.
class Publisher {
 public:
  struct Counts {
    uint64_t published = 0;
    uint64_t confirmed = 0;
    uint64_t returned = 0;  // confirmed as well: the broker took them and had no queue for them
    uint64_t refused = 0;   // basic.nack
    std::string return_reason;
  };

  // The properties, the exchange and the key of every message.
  static Expected<Publisher> open(AmqpClient& client, std::string exchange, std::string routing_key,
                                  const PublishProperties& properties);

  // Waits where the window is full.
  Expected<> publish(std::string_view body);
  // Takes what the broker says within the time, 0 for what is there already.
  Expected<> listen(int timeout_ms);
  // Waits for every confirm.
  Expected<> finish();

  const Counts& counts() const { return counts_; }

 private:
  Publisher(AmqpClient& client, std::string exchange, std::string routing_key,
            const PublishProperties& properties);
  Expected<> take(const amqp_frame_t& frame);
  void settle(uint64_t tag, bool multiple, uint64_t& counter);

  AmqpClient* client_;
  std::string exchange_;
  std::string routing_key_;
  PublishProperties properties_;
  std::set<uint64_t> unconfirmed_;
  Counts counts_;
};

}  // namespace sluice::cli
