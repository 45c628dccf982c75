#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <amqp.h>

#include "base/error.h"
#include "tools/cli/parse.h"

namespace sluice::cli {

// One AMQP 0-9-1 connection with one open channel, over librabbitmq. One thread; it blocks.
class AmqpClient {
 public:
  static constexpr amqp_channel_t kChannel = 1;

  // `url` as in --amqp. Connects and logs in.
  static Expected<AmqpClient> open(const std::string& url);

  // For librabbitmq's calls on kChannel.
  amqp_connection_state_t state() const { return state_.get(); }

  // What a call ended with, as an Error that carries the broker's reply-text.
  Expected<> check(const amqp_rpc_reply_t& reply) const;
  // The reply of the last synchronous call, checked.
  Expected<> check_last() const { return check(amqp_get_rpc_reply(state())); }
  // A library status; negative ones are Errors. Where the connection broke, looks for the close
  // with which the broker said why.
  Expected<> check_status(int status) const;
  // A method that arrived by itself: a close of the channel or connection is an Error, others pass.
  Expected<> check_method(const amqp_method_t& method) const;

  // Says goodbye, so that the broker logs no aborted connection. Without it the destructor just
  // drops the connection.
  void close();

 private:
  struct Destroy {
    void operator()(amqp_connection_state_t state) const { amqp_destroy_connection(state); }
  };
  using State = std::unique_ptr<std::remove_pointer_t<amqp_connection_state_t>, Destroy>;

  AmqpClient(State state, Url url) : state_(std::move(state)), url_(std::move(url)) {}
  Expected<> log_in();

  State state_;
  Url url_;
};

inline amqp_bytes_t as_amqp(std::string_view text) {
  return {text.size(), const_cast<char*>(text.data())};
}

inline std::string_view as_view(amqp_bytes_t bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

// The table that librabbitmq stands for with a macro that is not C++.
inline constexpr amqp_table_t kEmptyTable{0, nullptr};

}  // namespace sluice::cli
