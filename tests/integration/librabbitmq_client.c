/* The main flows with librabbitmq, unmodified: `librabbitmq_client HOST PORT` goes through all of
 * them and prints one line for each; it ends with status 1 at the first that the broker does not
 * support. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static const char* flow = "connect";

static void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "%s: ", flow);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void expect(bool holds, const char* what) {
  if (!holds) fail("expected %s", what);
}

/* Ends the program unless the last synchronous call went well. */
static void check(amqp_rpc_reply_t reply, const char* what) {
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) {
    fail("%s: %s", what, amqp_error_string2(reply.library_error));
  }
  if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    amqp_channel_close_t* close = reply.reply.decoded;
    fail("%s: channel closed, %u %.*s", what, close->reply_code, (int)close->reply_text.len,
         (char*)close->reply_text.bytes);
  }
  if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
    amqp_connection_close_t* close = reply.reply.decoded;
    fail("%s: connection closed, %u %.*s", what, close->reply_code, (int)close->reply_text.len,
         (char*)close->reply_text.bytes);
  }
  fail("%s: unexpected method %08X", what, reply.reply.id);
}

static amqp_connection_state_t connect_to(const char* host, int port) {
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(connection);
  if (socket == NULL || amqp_socket_open(socket, host, port) != 0) fail("cannot reach it");
  check(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"),
        "login");
  return connection;
}

static void open_channel(amqp_connection_state_t connection, amqp_channel_t channel) {
  amqp_channel_open(connection, channel);
  check(amqp_get_rpc_reply(connection), "channel.open");
}

static amqp_bytes_t declare_queue(amqp_connection_state_t connection, amqp_channel_t channel) {
  amqp_queue_declare_ok_t* declared = amqp_queue_declare(
      connection, channel, amqp_empty_bytes, /*passive=*/0, /*durable=*/0, /*exclusive=*/1,
      /*auto_delete=*/0, amqp_empty_table);
  check(amqp_get_rpc_reply(connection), "queue.declare");
  return amqp_bytes_malloc_dup(declared->queue);
}

static void publish(amqp_connection_state_t connection, amqp_channel_t channel,
                    const char* exchange, amqp_bytes_t key, amqp_bytes_t body) {
  amqp_basic_properties_t properties;
  memset(&properties, 0, sizeof properties);
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  properties.correlation_id = amqp_cstring_bytes("a correlation");
  int status = amqp_basic_publish(connection, channel, amqp_cstring_bytes(exchange), key, 0, 0,
                                  &properties, body);
  if (status != AMQP_STATUS_OK) fail("publish: %s", amqp_error_string2(status));
}

/* Takes the next delivery, which has to have this body. */
static uint64_t expect_delivery(amqp_connection_state_t connection, amqp_bytes_t body,
                                bool redelivered) {
  amqp_envelope_t envelope;
  struct timeval timeout = {10, 0};
  amqp_maybe_release_buffers(connection);
  check(amqp_consume_message(connection, &envelope, &timeout, 0), "deliver");
  expect(envelope.message.body.len == body.len &&
             memcmp(envelope.message.body.bytes, body.bytes, body.len) == 0,
         "the body as it was published");
  expect(envelope.message.properties.delivery_mode == AMQP_DELIVERY_PERSISTENT, "delivery mode 2");
  expect((envelope.redelivered != 0) == redelivered, "the right redelivered flag");
  uint64_t tag = envelope.delivery_tag;
  amqp_destroy_envelope(&envelope);
  return tag;
}

static void publish_and_consume(amqp_connection_state_t connection) {
  flow = "publish and consume";
  open_channel(connection, 1);
  amqp_bytes_t queue = declare_queue(connection, 1);
  amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  check(amqp_get_rpc_reply(connection), "basic.consume");

  size_t sizes[] = {0, 1, 1000, 131064, 1000000};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    amqp_bytes_t body = amqp_bytes_malloc(sizes[i]);
    for (size_t at = 0; at < body.len; at++) ((char*)body.bytes)[at] = (char)(at * 31 + i);
    publish(connection, 1, "", queue, body);
    uint64_t tag = expect_delivery(connection, body, false);
    expect(amqp_basic_ack(connection, 1, tag, 0) == 0, "an ack to be sent");
    amqp_bytes_free(body);
  }
  amqp_bytes_t body = amqp_cstring_bytes("again");
  publish(connection, 1, "", queue, body);
  uint64_t tag = expect_delivery(connection, body, false);
  expect(amqp_basic_nack(connection, 1, tag, 0, /*requeue=*/1) == 0, "a nack to be sent");
  tag = expect_delivery(connection, body, true);
  expect(amqp_basic_reject(connection, 1, tag, /*requeue=*/0) == 0, "a reject to be sent");
  check(amqp_channel_close(connection, 1, AMQP_REPLY_SUCCESS), "channel.close");
  amqp_bytes_free(queue);
  puts("publish and consume");
}

static void topic_and_get(amqp_connection_state_t connection) {
  flow = "topic and get";
  open_channel(connection, 2);
  amqp_bytes_t queue = declare_queue(connection, 2);
  amqp_queue_bind(connection, 2, queue, amqp_cstring_bytes("amq.topic"),
                  amqp_cstring_bytes("librabbitmq.*"), amqp_empty_table);
  check(amqp_get_rpc_reply(connection), "queue.bind");
  publish(connection, 2, "amq.topic", amqp_cstring_bytes("librabbitmq.test"),
          amqp_cstring_bytes("through a topic"));
  publish(connection, 2, "amq.topic", amqp_cstring_bytes("other.test"), amqp_cstring_bytes("not"));

  check(amqp_basic_get(connection, 2, queue, /*no_ack=*/1), "basic.get");
  amqp_message_t message;
  check(amqp_read_message(connection, 2, &message, 0), "the message of get");
  expect(message.body.len == 15 && memcmp(message.body.bytes, "through a topic", 15) == 0,
         "the body as it was published");
  amqp_destroy_message(&message);

  amqp_rpc_reply_t empty = amqp_basic_get(connection, 2, queue, 1);
  check(empty, "basic.get");
  expect(empty.reply.id == AMQP_BASIC_GET_EMPTY_METHOD, "get-empty");
  check(amqp_channel_close(connection, 2, AMQP_REPLY_SUCCESS), "channel.close");
  amqp_bytes_free(queue);
  puts("topic and get");
}

static void confirms(amqp_connection_state_t connection) {
  flow = "confirms";
  open_channel(connection, 3);
  amqp_bytes_t queue = declare_queue(connection, 3);
  amqp_confirm_select(connection, 3);
  check(amqp_get_rpc_reply(connection), "confirm.select");
  const uint64_t count = 500;
  for (uint64_t i = 0; i < count; i++) {
    publish(connection, 3, "", queue, amqp_cstring_bytes("confirm me"));
  }
  for (uint64_t confirmed = 0; confirmed < count;) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    expect(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "a frame");
    expect(
        frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD,
        "basic.ack");
    amqp_basic_ack_t* ack = frame.payload.method.decoded;
    confirmed = ack->multiple ? ack->delivery_tag : confirmed + 1;
  }
  amqp_queue_purge_ok_t* purged = amqp_queue_purge(connection, 3, queue);
  check(amqp_get_rpc_reply(connection), "queue.purge");
  expect(purged->message_count == count, "as many messages as were confirmed");
  amqp_bytes_free(queue);
  puts("confirms");
}

static void channel_error(amqp_connection_state_t connection) {
  flow = "channel error";
  open_channel(connection, 4);
  amqp_queue_declare(connection, 4, amqp_cstring_bytes("librabbitmq-missing"), /*passive=*/1, 0, 0,
                     0, amqp_empty_table);
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
  expect(reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
             reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD,
         "channel.close");
  amqp_channel_close_t* close = reply.reply.decoded;
  expect(close->reply_code == AMQP_NOT_FOUND, "404");
  amqp_channel_close_ok_t ok = {0};
  expect(amqp_send_method(connection, 4, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok) == 0, "close-ok");
  open_channel(connection, 5);
  amqp_bytes_free(declare_queue(connection, 5));
  puts("channel error");
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s HOST PORT\n", argv[0]);
    return 2;
  }
  amqp_connection_state_t connection = connect_to(argv[1], atoi(argv[2]));
  publish_and_consume(connection);
  topic_and_get(connection);
  confirms(connection);
  channel_error(connection);
  flow = "close";
  check(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "connection.close");
  expect(amqp_destroy_connection(connection) == AMQP_STATUS_OK, "a clean end");
  return 0;
}
