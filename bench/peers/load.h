/* One load, whatever client library drives it.
 *
 * load.c owns the clock, the threads, the checks and the figures. A client (librabbitmq_client.c,
 * own_client.c, nats_client.c) implements the functions under "What a client implements". Each
 * connection has a thread of its own that calls them. Any mistake ends the program with status 1.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct options {
  const char* command;
  const char* host;
  int port;
  const char* prefix;     /* queue i is named PREFIX-i, with three digits */
  const char* queue_type; /* AMQP's x-queue-type; NULL for the broker's default */
  unsigned queues;
  unsigned connections;
  uint64_t count;    /* messages at most, over all connections */
  uint64_t expect;   /* messages that drain takes; of those numbered below `count` */
  double seconds;    /* publishing ends then; 0 for never */
  size_t size;       /* bytes a body */
  uint64_t window;   /* unconfirmed publishes a connection */
  unsigned prefetch; /* unacknowledged deliveries a connection */
  double rate;       /* messages a second over all connections, open loop */
};

/* Set before any client function is called, and constant then. */
extern struct options options;

enum { kQueueNameMax = 64, kBodyMin = 16, kBodies = 512 };

/* Message `number` of a publisher is number `number * connections + index` of the load. */
struct publisher {
  unsigned index;
  uint64_t share;     /* messages at most */
  uint64_t sent;      /* written by load.c after publisher_send */
  uint64_t confirmed; /* written by publisher_confirmed */
  unsigned char* done;
  int64_t* stamp_ns;
  int64_t* confirm_ns; /* how long each confirm took */
  void* client;
};

struct consumer {
  unsigned index;
  void* client;
};

void fail(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));
int64_t now_ns(void);
void queue_name(unsigned queue, char name[kQueueNameMax]);
/* The queue of a publisher's message: each publisher takes turns over all of them. */
unsigned queue_of(const struct publisher* publisher, uint64_t number);
/* Whether a consumer takes from `queue`: they share the queues, or a queue where there are fewer.
 */
int consumes_from(const struct consumer* consumer, unsigned queue);

/* Bytes for bodies, which do not compress and repeat after kBodies messages only; to be freed. */
char* bodies_make(void);
/* Where a message's body lies in them, of options.size bytes. */
char* body_of(char* bodies, uint64_t number);
/* Writes the first kBodyMin bytes of a message's body: when it was due (in an open loop) or sent,
 * and its number. `now` is the time at which it is sent. */
void stamp_body(struct publisher* publisher, uint64_t number, char* body, int64_t now);
/* One confirm; twice is a failure. Calls for one publisher must not overlap. */
void publisher_confirmed(struct publisher* publisher, uint64_t number, int64_t now);
/* The publisher's message that a body belongs to. */
uint64_t number_in_body(const char* body);
/* One delivery, from any thread; a second one of the same message or a wrong size is a failure. */
void delivered(const char* body, size_t size);
/* Whether every message has been delivered. */
int all_delivered(void);

/* What a client implements. */

/* Durable queues that keep persistent messages. Declaring one that is there changes nothing. */
void queues_declare(void);
uint64_t queues_depth(void);
void queues_delete(void);

void publisher_open(struct publisher* publisher);
/* Publishes messages `sent` to `sent + count - 1`; returns when they are on their way. */
void publisher_send(struct publisher* publisher, uint64_t count);
/* Waits for a confirm, at the latest until `until_ns` (INT64_MAX: for ever), takes all that have
 * arrived, and returns how many there have been since the start. */
uint64_t publisher_await(struct publisher* publisher, int64_t until_ns);
void publisher_close(struct publisher* publisher);

void consumer_open(struct consumer* consumer);
/* From here on the broker delivers. */
void consumer_start(struct consumer* consumer);
/* Takes and acknowledges what has arrived; waits for some milliseconds at most. */
void consumer_poll(struct consumer* consumer);
/* Sends the acknowledgements that are missing; closing makes sure that they have arrived. */
void consumer_finish(struct consumer* consumer);
void consumer_close(struct consumer* consumer);
