#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/amqp_client.h"
#include "tools/cli/amqp_json.h"
#include "tools/cli/context.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"

namespace sluice::cli {
namespace {

struct Options {
  std::string queue;
  std::optional<uint64_t> count;
  bool follow = false;
  bool no_ack = false;
};

// Prints a message; once this returns, stdout has all of it.
Expected<> print_message(const Context& context, std::string_view exchange,
                         std::string_view routing_key, bool redelivered,
                         const amqp_message_t& message) {
  if (context.json()) {
    print_json_line(message_json(exchange, routing_key, redelivered, message));
    return flush_stdout();
  }
  const std::string_view body = as_view(message.body);
  if (const auto written = write_stdout(body); !written) return written;
  // A person's terminal wants lines; a file or pipe gets the bodies as they are.
  static const bool terminal = isatty(STDOUT_FILENO) == 1;
  if (terminal && !body.ends_with('\n')) {
    if (const auto written = write_stdout("\n"); !written) return written;
  }
  return flush_stdout();
}

Expected<> acknowledge(const AmqpClient& client, uint64_t delivery_tag) {
  return client.check_status(amqp_basic_ack(client.state(), AmqpClient::kChannel, delivery_tag, 0));
}

// basic.get until the queue is empty: it alone tells that there is nothing more.
Expected<uint64_t> drain(const Context& context, const Options& options, const AmqpClient& client) {
  Progress progress;
  uint64_t taken = 0;
  for (; taken < options.count.value_or(UINT64_MAX); ++taken) {
    amqp_maybe_release_buffers(client.state());
    const amqp_rpc_reply_t reply = amqp_basic_get(client.state(), AmqpClient::kChannel,
                                                  as_amqp(options.queue), options.no_ack ? 1 : 0);
    if (const auto got = client.check(reply); !got) return std::unexpected(got.error());
    if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD) break;
    const auto* get = static_cast<const amqp_basic_get_ok_t*>(reply.reply.decoded);
    amqp_message_t message;
    const amqp_rpc_reply_t content =
        amqp_read_message(client.state(), AmqpClient::kChannel, &message, 0);
    if (const auto read = client.check(content); !read) return std::unexpected(read.error());
    const auto printed = print_message(context, as_view(get->exchange), as_view(get->routing_key),
                                       get->redelivered != 0, message);
    amqp_destroy_message(&message);
    if (!printed) return std::unexpected(printed.error());
    if (!options.no_ack) {
      const auto acked = acknowledge(client, get->delivery_tag);
      if (!acked) return std::unexpected(acked.error());
    }
    progress.update("messages consumed", taken + 1);
  }
  return taken;
}

Expected<> start_consumer(const Options& options, const AmqpClient& client, bool broker_no_ack) {
  // A consumer that wants a certain number must not hold more than it will take.
  const uint16_t prefetch = options.count ? 1 : kPrefetch;
  amqp_basic_qos(client.state(), AmqpClient::kChannel, 0, prefetch, 0);
  if (const auto set = client.check_last(); !set) return set;
  const bool no_local = false;
  const bool exclusive = false;
  amqp_basic_consume(client.state(), AmqpClient::kChannel, as_amqp(options.queue), as_amqp(""),
                     no_local, broker_no_ack ? 1 : 0, exclusive, kEmptyTable);
  return client.check_last();
}

// Something other than a delivery came: an Error where it ends the consumer.
Expected<> take_event(const Options& options, const AmqpClient& client) {
  amqp_frame_t frame;
  const int status = amqp_simple_wait_frame(client.state(), &frame);
  if (const auto heard = client.check_status(status); !heard) return heard;
  if (frame.frame_type != AMQP_FRAME_METHOD) return {};
  if (frame.payload.method.id == AMQP_BASIC_CANCEL_METHOD) {
    return fail(Code::kNotFound, fmt::format("the queue '{}' was deleted", options.queue));
  }
  return client.check_method(frame.payload.method);
}

Expected<uint64_t> follow(const Context& context, const Options& options,
                          const AmqpClient& client) {
  // With a count, the broker's no-ack mode would lose what it had sent beyond it; an ack before
  // the message is printed promises the same.
  const bool broker_no_ack = options.no_ack && !options.count;
  const bool ack_first = options.no_ack && options.count;
  const auto started = start_consumer(options, client, broker_no_ack);
  if (!started) return std::unexpected(started.error());

  uint64_t taken = 0;
  while (taken < options.count.value_or(UINT64_MAX)) {
    amqp_maybe_release_buffers(client.state());
    amqp_envelope_t envelope;
    const amqp_rpc_reply_t reply = amqp_consume_message(client.state(), &envelope, nullptr, 0);
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
        reply.library_error == AMQP_STATUS_UNEXPECTED_STATE) {
      const auto heard = take_event(options, client);
      if (!heard) return std::unexpected(heard.error());
      continue;
    }
    if (const auto got = client.check(reply); !got) return std::unexpected(got.error());
    Expected<> done;
    // Cancelled before its last ack, the consumer is sent nothing that it would have to give back.
    if (taken + 1 == options.count) {
      amqp_basic_cancel(client.state(), AmqpClient::kChannel, envelope.consumer_tag);
      done = client.check_last();
    }
    if (done && ack_first) done = acknowledge(client, envelope.delivery_tag);
    if (done) {
      done = print_message(context, as_view(envelope.exchange), as_view(envelope.routing_key),
                           envelope.redelivered != 0, envelope.message);
    }
    if (done && !options.no_ack) done = acknowledge(client, envelope.delivery_tag);
    amqp_destroy_envelope(&envelope);
    if (!done) return std::unexpected(done.error());
    ++taken;
  }
  return taken;
}

Expected<> consume(const Context& context, const Options& options) {
  auto client = AmqpClient::open(context.amqp_url);
  if (!client) return std::unexpected(client.error());
  const auto taken =
      options.follow ? follow(context, options, *client) : drain(context, options, *client);
  if (!taken) return std::unexpected(taken.error());
  client->close();
  return {};
}

}  // namespace

void add_consume_command(CLI::App& app, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(app, context, "consume",
                  "Take messages until the queue is empty; each is acknowledged once it is printed",
                  options, consume);
  command->add_option("--queue", options->queue, "The queue")->required()->type_name("Q");
  command->add_option("--count", options->count, "So many messages, at most")
      ->check(above_zero)
      ->type_name("N");
  command->add_flag("--follow", options->follow, "Wait for more until interrupted");
  command->add_flag("--no-ack", options->no_ack,
                    "Messages count as acknowledged when the broker sends them");
}

}  // namespace sluice::cli
