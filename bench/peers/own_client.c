/* AMQP with as little of a client as there can be: librabbitmq opens the connection; then many
 * messages go into one system call and come out of one, and one acknowledgement settles many. What
 * it reaches is what the broker can do. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "amqp_session.h"

enum { kFrameStart = 7, kFrameEnd = 0xce, kWriteSize = 65536, kReadSize = 4 * kFrameSizeMax };

/* Bytes that have arrived, and frames in them. */
struct reader {
  int socket;
  size_t start;
  size_t end;
  char buffer[kReadSize];
};

struct frame {
  uint8_t type;
  uint32_t size;
  const char* payload;
};

struct publisher_state {
  amqp_connection_state_t connection;
  struct reader reader;
  uint64_t all_up_to;
  /* Whole messages, ready to send but for their stamps; message n of the publisher has slot
   * n % slots, and slots is a multiple of the number of queues. */
  uint64_t slots;
  size_t slot_size;
  size_t body_at; /* in a slot */
  char* buffer;
};

struct consumer_state {
  amqp_connection_state_t connection;
  struct reader reader;
  uint64_t unacked;
  uint64_t tag; /* of the last delivery */
  uint64_t body_size;
};

static char* put(char* at, const void* data, size_t size) {
  memcpy(at, data, size);
  return at + size;
}

static char* put_u64(char* at, uint64_t value) {
  value = htobe64(value);
  return put(at, &value, 8);
}

static char* put_frame_start(char* at, uint8_t type, uint32_t payload_size) {
  uint16_t channel = htobe16(kChannel);
  uint32_t size = htobe32(payload_size);
  *at++ = (char)type;
  at = put(at, &channel, 2);
  return put(at, &size, 4);
}

static char* put_frame_end(char* at) {
  *at = (char)kFrameEnd;
  return at + 1;
}

static uint32_t get_u32(const char* at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return be32toh(value);
}

static uint64_t get_u64(const char* at) {
  uint64_t value;
  memcpy(&value, at, 8);
  return be64toh(value);
}

/* One publish to the default exchange: basic.publish, header (delivery-mode 2), body. */
static char* put_publish(char* at, const char* queue, const char* body, size_t* body_at) {
  const char* start = at;
  const size_t name_size = strlen(queue);
  at = put_frame_start(at, AMQP_FRAME_METHOD, (uint32_t)(4 + 2 + 1 + 1 + name_size + 1));
  at = put(at, "\0\x3c\0\x28\0\0\0", 7);
  *at++ = (char)name_size;
  at = put(at, queue, name_size);
  *at++ = 0;
  at = put_frame_end(at);

  at = put_frame_start(at, AMQP_FRAME_HEADER, 15);
  at = put(at, "\0\x3c\0\0", 4);
  at = put_u64(at, options.size);
  at = put(at, "\x10\0\x02", 3);
  at = put_frame_end(at);

  at = put_frame_start(at, AMQP_FRAME_BODY, (uint32_t)options.size);
  *body_at = (size_t)(at - start);
  return put_frame_end(put(at, body, options.size));
}

static void send_all(int socket, const char* data, size_t size) {
  while (size > 0) {
    ssize_t sent = send(socket, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) fail("send: %s", strerror(errno));
    data += sent;
    size -= (size_t)sent;
  }
}

/* The socket of a connection with which librabbitmq has finished, as far as reading goes. */
static int take_socket(amqp_connection_state_t connection) {
  const int socket = amqp_get_sockfd(connection);
  /* librabbitmq leaves it non-blocking. */
  if (fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) & ~O_NONBLOCK) != 0) {
    fail("fcntl: %s", strerror(errno));
  }
  return socket;
}

static void read_more(struct reader* reader) {
  memmove(reader->buffer, reader->buffer + reader->start, reader->end - reader->start);
  reader->end -= reader->start;
  reader->start = 0;
  ssize_t got = recv(reader->socket, reader->buffer + reader->end, kReadSize - reader->end, 0);
  if (got < 0 && errno == EINTR) return;
  if (got <= 0) fail("%s", "the broker has ended the connection");
  reader->end += (size_t)got;
}

/* The next whole frame among what was read; its payload is valid until more is read. */
static int next_frame(struct reader* reader, struct frame* frame) {
  const char* at = reader->buffer + reader->start;
  const size_t filled = reader->end - reader->start;
  if (filled < kFrameStart) return 0;
  const uint32_t size = get_u32(at + 3);
  if (size > kFrameSizeMax) fail("a frame of %u bytes", size);
  if (filled < kFrameStart + size + 1) return 0;
  *frame = (struct frame){(uint8_t)at[0], size, at + kFrameStart};
  reader->start += kFrameStart + size + 1;
  return 1;
}

void publisher_open(struct publisher* publisher) {
  if (options.size + kFrameStart + 1 > kFrameSizeMax) {
    fail("a body of %zu bytes does not fit one frame", options.size);
  }
  struct publisher_state* state = calloc(1, sizeof *state);
  state->connection = amqp_session_open();
  amqp_confirm_select(state->connection, kChannel);
  amqp_session_check(state->connection, "confirm.select");
  state->reader.socket = take_socket(state->connection);

  char* bodies = bodies_make();
  char* one = malloc(options.size + 1024);
  char name[kQueueNameMax];
  queue_name(0, name);
  state->slot_size = (size_t)(put_publish(one, name, bodies, &state->body_at) - one);
  free(one);
  state->slots = kWriteSize / state->slot_size + 1;
  state->slots = (state->slots + options.queues - 1) / options.queues * options.queues;
  state->buffer = malloc(state->slots * state->slot_size);
  char* at = state->buffer;
  for (uint64_t slot = 0; slot < state->slots; slot++) {
    queue_name(queue_of(publisher, slot), name);
    at = put_publish(at, name, body_of(bodies, slot), &state->body_at);
  }
  free(bodies);
  publisher->client = state;
}

void publisher_send(struct publisher* publisher, uint64_t count) {
  struct publisher_state* state = publisher->client;
  uint64_t number = publisher->sent;
  const uint64_t end = number + count;
  while (number < end) {
    const int64_t now = now_ns();
    const uint64_t first = number % state->slots;
    uint64_t slot = first;
    for (; slot < state->slots && number < end; slot++, number++) {
      stamp_body(publisher, number, state->buffer + slot * state->slot_size + state->body_at, now);
    }
    send_all(state->reader.socket, state->buffer + first * state->slot_size,
             (slot - first) * state->slot_size);
  }
}

uint64_t publisher_await(struct publisher* publisher, int64_t until_ns) {
  struct publisher_state* state = publisher->client;
  if (!amqp_session_readable(state->connection, until_ns)) return publisher->confirmed;
  read_more(&state->reader);
  struct frame frame;
  while (next_frame(&state->reader, &frame)) {
    if (frame.type != AMQP_FRAME_METHOD) continue;
    if (frame.size < 13 || get_u32(frame.payload) != AMQP_BASIC_ACK_METHOD) {
      fail("method %08x instead of a confirm", get_u32(frame.payload));
    }
    amqp_confirm(publisher, &state->all_up_to, get_u64(frame.payload + 4), frame.payload[12] & 1);
  }
  return publisher->confirmed;
}

void publisher_close(struct publisher* publisher) {
  struct publisher_state* state = publisher->client;
  amqp_session_close(state->connection);
  free(state->buffer);
  free(state);
}

void consumer_open(struct consumer* consumer) {
  struct consumer_state* state = calloc(1, sizeof *state);
  state->connection = amqp_session_open();
  amqp_basic_qos(state->connection, kChannel, 0, (uint16_t)options.prefetch, /*global=*/0);
  amqp_session_check(state->connection, "basic.qos");
  state->reader.socket = take_socket(state->connection);
  consumer->client = state;
}

void consumer_start(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  for (unsigned queue = 0; queue < options.queues; queue++) {
    if (!consumes_from(consumer, queue)) continue;
    char name[kQueueNameMax];
    queue_name(queue, name);
    /* Its answer comes among the deliveries, which librabbitmq must not read. */
    amqp_basic_consume_t consume = {.queue = amqp_cstring_bytes(name)};
    int status = amqp_send_method(state->connection, kChannel, AMQP_BASIC_CONSUME_METHOD, &consume);
    if (status != AMQP_STATUS_OK) fail("basic.consume: %s", amqp_error_string2(status));
  }
}

static void acknowledge(struct consumer_state* state) {
  if (state->unacked == 0) return;
  char buffer[32];
  char* at = put_frame_start(buffer, AMQP_FRAME_METHOD, 13);
  at = put(at, "\0\x3c\0\x50", 4);
  at = put_u64(at, state->tag);
  *at++ = 1; /* multiple */
  at = put_frame_end(at);
  send_all(state->reader.socket, buffer, (size_t)(at - buffer));
  state->unacked = 0;
}

static void take(struct consumer_state* state, const struct frame* frame) {
  switch (frame->type) {
    case AMQP_FRAME_METHOD:
      if (get_u32(frame->payload) == AMQP_BASIC_CONSUME_OK_METHOD) return;
      if (get_u32(frame->payload) != AMQP_BASIC_DELIVER_METHOD) {
        fail("method %08x instead of a delivery", get_u32(frame->payload));
      }
      /* It starts with the consumer's tag. */
      state->tag = get_u64(frame->payload + 5 + (uint8_t)frame->payload[4]);
      break;
    case AMQP_FRAME_HEADER:
      state->body_size = get_u64(frame->payload + 4);
      break;
    case AMQP_FRAME_BODY:
      if (frame->size != state->body_size) fail("%s", "a body in more than one frame");
      delivered(frame->payload, frame->size);
      state->unacked++;
      break;
    default:
      break;
  }
}

void consumer_poll(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  if (!amqp_session_readable(state->connection, now_ns() + 20000000)) {
    acknowledge(state);
    return;
  }
  read_more(&state->reader);
  struct frame frame;
  while (next_frame(&state->reader, &frame)) {
    take(state, &frame);
    if (state->unacked * 4 >= options.prefetch) acknowledge(state);
  }
}

void consumer_finish(struct consumer* consumer) { acknowledge(consumer->client); }

void consumer_close(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  amqp_session_close(state->connection);
  free(state);
}
