#include "amqp_session.h"

#include <amqp_tcp_socket.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

void amqp_session_check(amqp_connection_state_t connection, const char* what) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("%s was refused", what);
}

amqp_connection_state_t amqp_session_open(void) {
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(connection);
  if (socket == NULL || amqp_socket_open(socket, options.host, options.port) != 0) {
    fail("no broker at %s:%d", options.host, options.port);
  }
  amqp_rpc_reply_t login =
      amqp_login(connection, "/", 0, kFrameSizeMax, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  if (login.reply_type != AMQP_RESPONSE_NORMAL) fail("%s", "login was refused");
  amqp_channel_open(connection, kChannel);
  amqp_session_check(connection, "channel.open");
  return connection;
}

void amqp_session_close(amqp_connection_state_t connection) {
  amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(connection);
}

static uint64_t declare(amqp_connection_state_t connection, unsigned queue, int passive) {
  char name[kQueueNameMax];
  queue_name(queue, name);
  amqp_table_entry_t type = {.key = amqp_cstring_bytes("x-queue-type"),
                             .value = {.kind = AMQP_FIELD_KIND_UTF8}};
  amqp_table_t arguments = amqp_empty_table;
  if (options.queue_type != NULL) {
    type.value.value.bytes = amqp_cstring_bytes(options.queue_type);
    arguments = (amqp_table_t){.num_entries = 1, .entries = &type};
  }
  amqp_queue_declare_ok_t* ok =
      amqp_queue_declare(connection, kChannel, amqp_cstring_bytes(name), passive, /*durable=*/1,
                         /*exclusive=*/0, /*auto_delete=*/0, arguments);
  amqp_session_check(connection, "queue.declare");
  const uint64_t depth = ok->message_count;
  amqp_maybe_release_buffers(connection);
  return depth;
}

static uint64_t declare_all(int passive) {
  amqp_connection_state_t connection = amqp_session_open();
  uint64_t depth = 0;
  for (unsigned queue = 0; queue < options.queues; queue++) {
    depth += declare(connection, queue, passive);
  }
  amqp_session_close(connection);
  return depth;
}

void queues_declare(void) { declare_all(/*passive=*/0); }

uint64_t queues_depth(void) { return declare_all(/*passive=*/1); }

void queues_delete(void) {
  amqp_connection_state_t connection = amqp_session_open();
  for (unsigned queue = 0; queue < options.queues; queue++) {
    char name[kQueueNameMax];
    queue_name(queue, name);
    amqp_queue_delete(connection, kChannel, amqp_cstring_bytes(name), /*if_unused=*/0,
                      /*if_empty=*/0);
    amqp_session_check(connection, "queue.delete");
  }
  amqp_session_close(connection);
}

void amqp_confirm(struct publisher* publisher, uint64_t* all_up_to, uint64_t tag, int multiple) {
  const int64_t now = now_ns();
  if (tag == 0 || tag > publisher->share) fail("%s", "a confirm of what was never sent");
  if (!multiple) {
    publisher_confirmed(publisher, tag - 1, now);
    return;
  }
  /* Some of them may have been confirmed singly. */
  for (; *all_up_to < tag; ++*all_up_to) {
    if (!publisher->done[*all_up_to]) publisher_confirmed(publisher, *all_up_to, now);
  }
}

int amqp_session_readable(amqp_connection_state_t connection, int64_t until_ns) {
  struct pollfd socket = {.fd = amqp_get_sockfd(connection), .events = POLLIN};
  struct timespec left = {0, 0};
  if (until_ns != INT64_MAX) {
    const int64_t now = now_ns();
    if (until_ns > now) {
      left = (struct timespec){(until_ns - now) / 1000000000, (until_ns - now) % 1000000000};
    }
  }
  const int ready = ppoll(&socket, 1, until_ns == INT64_MAX ? NULL : &left, NULL);
  if (ready < 0 && errno != EINTR) fail("ppoll: %s", strerror(errno));
  return ready > 0;
}
