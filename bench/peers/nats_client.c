/* NATS JetStream through libnats. A queue is a stream with work-queue retention: what is
 * acknowledged is gone. It is stored in files and otherwise as the server has it by default. One
 * durable push consumer serves each queue; every message is acknowledged by itself.
 *
 * libnats gathers what is written for up to a millisecond. Where a window is so small that it would
 * wait for that, and in an open loop, it is told to send at once. */
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum { kTimeoutMs = 30000, kSendAtOnceWindow = 100 };

struct connection {
  natsConnection* nats;
  jsCtx* jetstream;
};

struct publisher_state {
  struct connection connection;
  char* bodies;
  /* Over the publisher's counts: confirms come on a thread of libnats. */
  pthread_mutex_t mutex;
  pthread_cond_t confirmed;
  uint64_t seen; /* how many confirms publisher_await has reported */
};

struct consumer_state {
  struct connection connection;
  natsSubscription** subscriptions;
  unsigned count;
};

static void check(natsStatus status, const char* what) {
  if (status != NATS_OK)
    fail("%s: %s, %s", what, natsStatus_GetText(status), nats_GetLastError(NULL));
}

static void on_confirm(jsCtx* context, natsMsg* message, jsPubAck* ack, jsPubAckErr* error,
                       void* closure) {
  (void)context;
  struct publisher* publisher = closure;
  struct publisher_state* state = publisher->client;
  if (ack == NULL) fail("a publish failed: %s", error->ErrText);
  const uint64_t number = number_in_body(natsMsg_GetData(message));
  const int64_t now = now_ns();
  pthread_mutex_lock(&state->mutex);
  publisher_confirmed(publisher, number, now);
  pthread_cond_signal(&state->confirmed);
  pthread_mutex_unlock(&state->mutex);
  natsMsg_Destroy(message);
}

static struct connection open_connection(struct publisher* publisher) {
  struct connection connection;
  char url[256];
  snprintf(url, sizeof url, "nats://%s:%d", options.host, options.port);
  natsOptions* of_connection;
  check(natsOptions_Create(&of_connection), "natsOptions_Create");
  check(natsOptions_SetURL(of_connection, url), "natsOptions_SetURL");
  check(natsOptions_SetAllowReconnect(of_connection, false), "natsOptions_SetAllowReconnect");
  /* One thread for the deliveries of all queues. */
  check(natsOptions_UseGlobalMessageDelivery(of_connection, true),
        "natsOptions_UseGlobalMessageDelivery");
  check(natsOptions_SetSendAsap(of_connection,
                                options.rate > 0 || options.window <= kSendAtOnceWindow),
        "natsOptions_SetSendAsap");
  check(natsConnection_Connect(&connection.nats, of_connection), "no server");
  natsOptions_Destroy(of_connection);

  jsOptions of_jetstream;
  check(jsOptions_Init(&of_jetstream), "jsOptions_Init");
  if (publisher != NULL) {
    of_jetstream.PublishAsync.MaxPending = options.rate > 0 ? 0 : (int64_t)options.window;
    of_jetstream.PublishAsync.StallWait = kTimeoutMs;
    of_jetstream.PublishAsync.AckHandler = on_confirm;
    of_jetstream.PublishAsync.AckHandlerClosure = publisher;
  }
  check(natsConnection_JetStream(&connection.jetstream, connection.nats, &of_jetstream),
        "natsConnection_JetStream");
  return connection;
}

static void close_connection(struct connection connection) {
  jsCtx_Destroy(connection.jetstream);
  natsConnection_Destroy(connection.nats);
}

void queues_declare(void) {
  struct connection connection = open_connection(NULL);
  for (unsigned queue = 0; queue < options.queues; queue++) {
    char name[kQueueNameMax];
    queue_name(queue, name);
    const char* subjects[] = {name};
    jsStreamConfig config;
    check(jsStreamConfig_Init(&config), "jsStreamConfig_Init");
    config.Name = name;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Retention = js_WorkQueuePolicy;
    config.Storage = js_FileStorage;
    check(js_AddStream(NULL, connection.jetstream, &config, NULL, NULL), "js_AddStream");
  }
  close_connection(connection);
}

uint64_t queues_depth(void) {
  struct connection connection = open_connection(NULL);
  uint64_t depth = 0;
  for (unsigned queue = 0; queue < options.queues; queue++) {
    char name[kQueueNameMax];
    queue_name(queue, name);
    jsStreamInfo* info;
    check(js_GetStreamInfo(&info, connection.jetstream, name, NULL, NULL), "js_GetStreamInfo");
    depth += info->State.Msgs;
    jsStreamInfo_Destroy(info);
  }
  close_connection(connection);
  return depth;
}

void queues_delete(void) {
  struct connection connection = open_connection(NULL);
  for (unsigned queue = 0; queue < options.queues; queue++) {
    char name[kQueueNameMax];
    queue_name(queue, name);
    check(js_DeleteStream(connection.jetstream, name, NULL, NULL), "js_DeleteStream");
  }
  close_connection(connection);
}

void publisher_open(struct publisher* publisher) {
  struct publisher_state* state = calloc(1, sizeof *state);
  pthread_mutex_init(&state->mutex, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&state->confirmed, &monotonic);
  state->bodies = bodies_make();
  publisher->client = state;
  state->connection = open_connection(publisher);
}

void publisher_send(struct publisher* publisher, uint64_t count) {
  struct publisher_state* state = publisher->client;
  for (uint64_t number = publisher->sent; number < publisher->sent + count; number++) {
    char queue[kQueueNameMax];
    queue_name(queue_of(publisher, number), queue);
    char* body = body_of(state->bodies, number);
    stamp_body(publisher, number, body, now_ns());
    check(js_PublishAsync(state->connection.jetstream, queue, body, (int)options.size, NULL),
          "js_PublishAsync");
  }
}

uint64_t publisher_await(struct publisher* publisher, int64_t until_ns) {
  struct publisher_state* state = publisher->client;
  const struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
  pthread_mutex_lock(&state->mutex);
  int error = 0;
  while (publisher->confirmed == state->seen && error == 0) {
    error = until_ns == INT64_MAX
                ? pthread_cond_wait(&state->confirmed, &state->mutex)
                : pthread_cond_timedwait(&state->confirmed, &state->mutex, &until);
  }
  const uint64_t confirmed = state->seen = publisher->confirmed;
  pthread_mutex_unlock(&state->mutex);
  return confirmed;
}

void publisher_close(struct publisher* publisher) {
  struct publisher_state* state = publisher->client;
  close_connection(state->connection);
  free(state->bodies);
  free(state);
}

/* Consumers that share a queue share its one durable consumer; so they open it under one name. */
static void add_consumer(jsCtx* jetstream, const char* queue) {
  char subject[kQueueNameMax + 16];
  snprintf(subject, sizeof subject, "deliver.%s", queue);
  jsConsumerConfig config;
  check(jsConsumerConfig_Init(&config), "jsConsumerConfig_Init");
  config.Durable = "bench";
  config.DeliverSubject = subject;
  config.DeliverGroup = "bench";
  config.AckPolicy = js_AckExplicit;
  config.MaxAckPending = options.prefetch;
  check(js_AddConsumer(NULL, jetstream, queue, &config, NULL, NULL), "js_AddConsumer");
}

static void on_delivery(natsConnection* connection, natsSubscription* subscription,
                        natsMsg* message, void* closure) {
  (void)connection;
  (void)subscription;
  (void)closure;
  delivered(natsMsg_GetData(message), (size_t)natsMsg_GetDataLength(message));
  check(natsMsg_Ack(message, NULL), "natsMsg_Ack");
  natsMsg_Destroy(message);
}

void consumer_open(struct consumer* consumer) {
  struct consumer_state* state = calloc(1, sizeof *state);
  state->connection = open_connection(NULL);
  state->subscriptions = calloc(options.queues, sizeof(natsSubscription*));
  for (unsigned queue = 0; queue < options.queues; queue++) {
    if (!consumes_from(consumer, queue)) continue;
    char name[kQueueNameMax];
    queue_name(queue, name);
    add_consumer(state->connection.jetstream, name);
  }
  consumer->client = state;
}

void consumer_start(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  for (unsigned queue = 0; queue < options.queues; queue++) {
    if (!consumes_from(consumer, queue)) continue;
    char name[kQueueNameMax];
    queue_name(queue, name);
    jsSubOptions of_subscription;
    check(jsSubOptions_Init(&of_subscription), "jsSubOptions_Init");
    of_subscription.Stream = name;
    of_subscription.Consumer = "bench";
    of_subscription.Queue = "bench";
    of_subscription.ManualAck = true;
    check(js_Subscribe(&state->subscriptions[state->count++], state->connection.jetstream, name,
                       on_delivery, NULL, NULL, &of_subscription, NULL),
          "js_Subscribe");
  }
}

void consumer_poll(struct consumer* consumer) {
  (void)consumer;
  /* Deliveries come on libnats' thread. */
  nats_Sleep(2);
}

void consumer_finish(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  check(natsConnection_FlushTimeout(state->connection.nats, kTimeoutMs), "natsConnection_Flush");
}

void consumer_close(struct consumer* consumer) {
  struct consumer_state* state = consumer->client;
  for (unsigned i = 0; i < state->count; i++) natsSubscription_Destroy(state->subscriptions[i]);
  close_connection(state->connection);
  free(state->subscriptions);
  free(state);
}
