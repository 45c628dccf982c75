/* AMQP as a user of librabbitmq writes it: one call a message, one acknowledgement a message. */
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "amqp_session.h"

struct publisher_state {
  amqp_connection_state_t connection;
  char* bodies;
  uint64_t all_up_to;
};

void publisher_open(struct publisher* publisher) {
  struct publisher_state* state = calloc(1, sizeof *state);
  state->connection = amqp_session_open();
  state->bodies = bodies_make();
  amqp_confirm_select(state->connection, kChannel);
  amqp_session_check(state->connection, "confirm.select");
  publisher->client = state;
}

void publisher_send(struct publisher* publisher, uint64_t count) {
  struct publisher_state* state = publisher->client;
  const amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                              .delivery_mode = 2};
  for (uint64_t number = publisher->sent; number < publisher->sent + count; number++) {
    char queue[kQueueNameMax];
    queue_name(queue_of(publisher, number), queue);
    const amqp_bytes_t body = {options.size, body_of(state->bodies, number)};
    stamp_body(publisher, number, body.bytes, now_ns());
    int status =
        amqp_basic_publish(state->connection, kChannel, amqp_empty_bytes, amqp_cstring_bytes(queue),
                           /*mandatory=*/0, /*immediate=*/0, &properties, body);
    if (status != AMQP_STATUS_OK) fail("basic.publish: %s", amqp_error_string2(status));
  }
}

uint64_t publisher_await(struct publisher* publisher, int64_t until_ns) {
  struct publisher_state* state = publisher->client;
  if (!amqp_frames_enqueued(state->connection) && !amqp_data_in_buffer(state->connection) &&
      !amqp_session_readable(state->connection, until_ns)) {
    return publisher->confirmed;
  }
  for (;;) {
    amqp_frame_t frame;
    struct timeval no_time = {0, 0};
    amqp_maybe_release_buffers(state->connection);
    int status = amqp_simple_wait_frame_noblock(state->connection, &frame, &no_time);
    if (status == AMQP_STATUS_TIMEOUT) return publisher->confirmed;
    if (status != AMQP_STATUS_OK) fail("waiting for confirms: %s", amqp_error_string2(status));
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
      fail("%s instead of a confirm", amqp_method_name(frame.payload.method.id));
    }
    const amqp_basic_ack_t* ack = frame.payload.method.decoded;
    amqp_confirm(publisher, &state->all_up_to, ack->delivery_tag, ack->multiple);
  }
}

void publisher_close(struct publisher* publisher) {
  struct publisher_state* state = publisher->client;
  amqp_session_close(state->connection);
  free(state->bodies);
  free(state);
}

void consumer_open(struct consumer* consumer) {
  amqp_connection_state_t connection = amqp_session_open();
  amqp_basic_qos(connection, kChannel, 0, (uint16_t)options.prefetch, /*global=*/0);
  amqp_session_check(connection, "basic.qos");
  consumer->client = connection;
}

void consumer_start(struct consumer* consumer) {
  for (unsigned queue = 0; queue < options.queues; queue++) {
    if (!consumes_from(consumer, queue)) continue;
    char name[kQueueNameMax];
    queue_name(queue, name);
    /* amqp_basic_consume would wait for an answer among the deliveries of the queues before, and
     * librabbitmq gets very slow once it has to put frames aside. */
    amqp_basic_consume_t consume = {
        .queue = amqp_cstring_bytes(name), .consumer_tag = amqp_cstring_bytes(name), .nowait = 1};
    int status = amqp_send_method(consumer->client, kChannel, AMQP_BASIC_CONSUME_METHOD, &consume);
    if (status != AMQP_STATUS_OK) fail("basic.consume: %s", amqp_error_string2(status));
  }
}

void consumer_poll(struct consumer* consumer) {
  amqp_envelope_t envelope;
  struct timeval timeout = {0, 20000};
  amqp_maybe_release_buffers(consumer->client);
  amqp_rpc_reply_t reply = amqp_consume_message(consumer->client, &envelope, &timeout, 0);
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
      reply.library_error == AMQP_STATUS_TIMEOUT) {
    return;
  }
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("%s", "consuming failed");
  delivered(envelope.message.body.bytes, envelope.message.body.len);
  int status = amqp_basic_ack(consumer->client, kChannel, envelope.delivery_tag, /*multiple=*/0);
  if (status != AMQP_STATUS_OK) fail("basic.ack: %s", amqp_error_string2(status));
  amqp_destroy_envelope(&envelope);
}

void consumer_finish(struct consumer* consumer) { (void)consumer; }

void consumer_close(struct consumer* consumer) { amqp_session_close(consumer->client); }
