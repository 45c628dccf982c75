/* One AMQP client's load, the same for every broker: publish with confirms, or consume with acks.
 *
 *   load publish HOST PORT QUEUE COUNT SIZE WINDOW
 *   load consume HOST PORT QUEUE COUNT PREFETCH
 *
 * prints one line of JSON: {"messages": n, "seconds": s, "rate": n/s}. The queue is declared
 * durable, messages are persistent. librabbitmq makes the connection; published frames are then
 * written many to a system call and confirms read likewise, so that the client is no part of what
 * is measured. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kChannel = 1, kFrameOverhead = 8, kFrameEnd = 0xce };

static void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void report(uint64_t messages, double seconds) {
  printf("{\"messages\": %llu, \"seconds\": %.6f, \"rate\": %.1f}\n", (unsigned long long)messages,
         seconds, (double)messages / seconds);
}

static void check(amqp_connection_state_t connection, const char* what) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("%s was refused", what);
}

static amqp_connection_state_t open_connection(const char* host, int port, const char* queue) {
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(connection);
  if (socket == NULL || amqp_socket_open(socket, host, port) != 0)
    fail("no broker at %s:%d", host, port);
  amqp_rpc_reply_t login =
      amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  if (login.reply_type != AMQP_RESPONSE_NORMAL) fail("login was refused");
  amqp_channel_open(connection, kChannel);
  check(connection, "channel.open");
  amqp_queue_declare(connection, kChannel, amqp_cstring_bytes(queue), /*passive=*/0, /*durable=*/1,
                     /*exclusive=*/0, /*auto_delete=*/0, amqp_empty_table);
  check(connection, "queue.declare");
  return connection;
}

static char* put(char* at, const void* data, size_t size) {
  memcpy(at, data, size);
  return at + size;
}

static char* put_frame_start(char* at, uint8_t type, uint32_t payload_size) {
  uint16_t channel = htobe16(kChannel);
  uint32_t size = htobe32(payload_size);
  *at++ = (char)type;
  at = put(at, &channel, 2);
  return put(at, &size, 4);
}

/* One whole publish to the default exchange: method, header (delivery-mode 2), body. */
static size_t encode_publish(char* buffer, const char* queue, size_t body_size) {
  size_t name_size = strlen(queue);
  char* at = put_frame_start(buffer, AMQP_FRAME_METHOD, (uint32_t)(4 + 2 + 1 + 1 + name_size + 1));
  at = put(at,
           "\0\x3c\0\x28"
           "\0\0"
           "\0",
           7);
  *at++ = (char)name_size;
  at = put(at, queue, name_size);
  *at++ = 0;
  *at++ = (char)kFrameEnd;

  uint64_t size = htobe64(body_size);
  at = put_frame_start(at, AMQP_FRAME_HEADER, 15);
  at = put(at, "\0\x3c\0\0", 4);
  at = put(at, &size, 8);
  at = put(at, "\x10\0\x02", 3);
  *at++ = (char)kFrameEnd;

  if (body_size > 0) {
    at = put_frame_start(at, AMQP_FRAME_BODY, (uint32_t)body_size);
    for (size_t i = 0; i < body_size; i++) *at++ = (char)('a' + i % 26);
    *at++ = (char)kFrameEnd;
  }
  return (size_t)(at - buffer);
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

/* Which publishes are confirmed: singly, or all up to a tag. */
struct confirms {
  unsigned char* done;
  uint64_t all_up_to;
  uint64_t count;
};

static void confirm(struct confirms* confirms, uint64_t tag, int multiple) {
  for (uint64_t at = multiple ? confirms->all_up_to + 1 : tag; at <= tag; at++) {
    confirms->count += !confirms->done[at];
    confirms->done[at] = 1;
  }
  if (multiple && tag > confirms->all_up_to) confirms->all_up_to = tag;
}

/* Reads what the broker has sent, at least one byte of it. */
static void read_confirms(int socket, uint64_t sent, struct confirms* confirms) {
  static unsigned char buffer[65536];
  static size_t filled;
  ssize_t got = recv(socket, buffer + filled, sizeof buffer - filled, 0);
  if (got <= 0)
    fail("the connection ended after %llu confirms", (unsigned long long)confirms->count);
  filled += (size_t)got;
  size_t at = 0;
  while (filled - at >= kFrameOverhead) {
    uint32_t size;
    memcpy(&size, buffer + at + 3, 4);
    size = be32toh(size);
    if (size > sizeof buffer - kFrameOverhead) fail("a frame of %u bytes among the confirms", size);
    if (filled - at < size + kFrameOverhead) break;
    const unsigned char* payload = buffer + at + 7;
    if (buffer[at] == AMQP_FRAME_METHOD) {
      uint64_t tag;
      if (size < 13 || memcmp(payload, "\0\x3c\0\x50", 4) != 0)
        fail("no confirm, but another method");
      memcpy(&tag, payload + 4, 8);
      tag = be64toh(tag);
      if (tag > sent) fail("a confirm of what was never sent");
      confirm(confirms, tag, payload[12] & 1);
    }
    at += size + kFrameOverhead;
  }
  memmove(buffer, buffer + at, filled - at);
  filled -= at;
}

static void publish(amqp_connection_state_t connection, const char* queue, uint64_t count,
                    size_t size, uint64_t window) {
  amqp_confirm_select(connection, kChannel);
  check(connection, "confirm.select");
  if (size > 131072 - kFrameOverhead) fail("a body of %zu bytes does not fit one frame", size);

  char* one = malloc(size + 1024);
  size_t one_size = encode_publish(one, queue, size);
  uint64_t batch = 65536 / one_size + 1;
  if (batch > window) batch = window;
  char* many = malloc(one_size * batch);
  for (uint64_t i = 0; i < batch; i++) memcpy(many + i * one_size, one, one_size);

  int socket = amqp_get_sockfd(connection);
  /* librabbitmq leaves it non-blocking. */
  if (fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) & ~O_NONBLOCK) != 0)
    fail("fcntl: %s", strerror(errno));
  uint64_t sent = 0;
  struct confirms confirms = {calloc(count + 1, 1), 0, 0};
  double start = now_s();
  while (confirms.count < count) {
    while (sent < count && sent - confirms.count < window) {
      uint64_t room = window - (sent - confirms.count);
      uint64_t now = room < batch ? room : batch;
      if (now > count - sent) now = count - sent;
      send_all(socket, many, now * one_size);
      sent += now;
    }
    read_confirms(socket, sent, &confirms);
  }
  report(count, now_s() - start);
  free(confirms.done);
  free(many);
  free(one);
}

static void consume(amqp_connection_state_t connection, const char* queue, uint64_t count,
                    uint16_t prefetch) {
  amqp_basic_qos(connection, kChannel, 0, prefetch, 0);
  check(connection, "basic.qos");
  double start = now_s();
  amqp_basic_consume(connection, kChannel, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0,
                     amqp_empty_table);
  check(connection, "basic.consume");
  const uint64_t ack_every = prefetch / 4 ? prefetch / 4 : 1;
  for (uint64_t taken = 1; taken <= count; taken++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    struct timeval timeout = {30, 0};
    if (amqp_consume_message(connection, &envelope, &timeout, 0).reply_type !=
        AMQP_RESPONSE_NORMAL) {
      fail("no delivery after %llu messages", (unsigned long long)(taken - 1));
    }
    if (taken % ack_every == 0 || taken == count) {
      amqp_basic_ack(connection, kChannel, envelope.delivery_tag, /*multiple=*/1);
    }
    amqp_destroy_envelope(&envelope);
  }
  report(count, now_s() - start);
}

int main(int argc, char** argv) {
  if (argc == 8 && strcmp(argv[1], "publish") == 0) {
    amqp_connection_state_t connection = open_connection(argv[2], atoi(argv[3]), argv[4]);
    publish(connection, argv[4], strtoull(argv[5], NULL, 10), strtoull(argv[6], NULL, 10),
            strtoull(argv[7], NULL, 10));
    return 0;
  }
  if (argc == 7 && strcmp(argv[1], "consume") == 0) {
    amqp_connection_state_t connection = open_connection(argv[2], atoi(argv[3]), argv[4]);
    consume(connection, argv[4], strtoull(argv[5], NULL, 10), (uint16_t)atoi(argv[6]));
    /* A clean close makes sure that the last acks have arrived. */
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    return 0;
  }
  fprintf(stderr,
          "usage: %s publish HOST PORT QUEUE COUNT SIZE WINDOW\n"
          "       %s consume HOST PORT QUEUE COUNT PREFETCH\n",
          argv[0], argv[0]);
  return 2;
}
