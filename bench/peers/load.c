#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

/* Open loop: how long the broker is warmed up before latencies count. */
static const int64_t kWarmUpNs = 1000000000;

struct options options = {.host = "127.0.0.1",
                          .prefix = "bench",
                          .queues = 1,
                          .connections = 1,
                          .count = 100000,
                          .size = 256,
                          .window = 1000,
                          .prefetch = 1000};

static struct publisher* publishers;
static struct consumer* consumers;
static pthread_barrier_t started;
static int64_t start_ns;

/* By the number of the message in the load. */
static atomic_uchar* seen;
static int64_t* delivery_ns;

static atomic_uint_fast64_t published;
static atomic_uint_fast64_t taken;
/* How many there are to take; known when all publishers are done. */
static atomic_uint_fast64_t expected = UINT64_MAX;
static atomic_uint publishing;
static atomic_int_fast64_t last_confirm_ns;
static atomic_int_fast64_t last_delivery_ns;

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  /* Other threads are in the middle of things. */
  _Exit(1);
}

static void* array(uint64_t count, size_t size) {
  void* memory = calloc(count, size);
  if (memory == NULL) fail("no memory for %llu messages", (unsigned long long)count);
  return memory;
}

int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void queue_name(unsigned queue, char name[kQueueNameMax]) {
  snprintf(name, kQueueNameMax, "%s-%03u", options.prefix, queue);
}

unsigned queue_of(const struct publisher* publisher, uint64_t number) {
  return (unsigned)((publisher->index + number) % options.queues);
}

int consumes_from(const struct consumer* consumer, unsigned queue) {
  return options.queues >= options.connections ? queue % options.connections == consumer->index
                                               : consumer->index % options.queues == queue;
}

/* When a publisher's message is to be sent in an open loop. */
static int64_t due_ns(const struct publisher* publisher, uint64_t number) {
  uint64_t position = number * options.connections + publisher->index;
  return start_ns + (int64_t)((double)position * 1e9 / options.rate);
}

/* Large bodies overlap. */
enum { kBodyStep = 1024 };

char* bodies_make(void) {
  const size_t size = options.size + (size_t)(kBodies - 1) * kBodyStep;
  char* bodies = malloc(size);
  uint64_t random = 0x9e3779b97f4a7c15; /* xorshift64 */
  for (size_t at = 0; at < size; at++) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    bodies[at] = (char)(random >> 56);
  }
  return bodies;
}

char* body_of(char* bodies, uint64_t number) { return bodies + number % kBodies * kBodyStep; }

void stamp_body(struct publisher* publisher, uint64_t number, char* body, int64_t now) {
  uint64_t position = number * options.connections + publisher->index;
  /* In an open loop a message that leaves late is late, whoever is to blame. */
  int64_t stamp = options.rate > 0 ? due_ns(publisher, number) : now;
  publisher->stamp_ns[number] = stamp;
  memcpy(body, &stamp, 8);
  memcpy(body + 8, &position, 8);
}

void publisher_confirmed(struct publisher* publisher, uint64_t number, int64_t now) {
  if (number >= publisher->share || publisher->stamp_ns[number] == 0) {
    fail("message %llu was confirmed and never sent", (unsigned long long)number);
  }
  if (publisher->done[number]) {
    fail("message %llu was confirmed twice", (unsigned long long)number);
  }
  publisher->done[number] = 1;
  publisher->confirm_ns[number] = now - publisher->stamp_ns[number];
  publisher->confirmed++;
}

uint64_t number_in_body(const char* body) {
  uint64_t position;
  memcpy(&position, body + 8, 8);
  return position / options.connections;
}

static void keep_latest(atomic_int_fast64_t* latest, int64_t now) {
  int_fast64_t before = atomic_load_explicit(latest, memory_order_relaxed);
  while (before < now && !atomic_compare_exchange_weak(latest, &before, now)) continue;
}

void delivered(const char* body, size_t size) {
  if (size != options.size) fail("a body of %zu bytes was delivered", size);
  int64_t stamp;
  uint64_t position;
  memcpy(&stamp, body, 8);
  memcpy(&position, body + 8, 8);
  if (position >= options.count) fail("a message was delivered that was never sent");
  if (atomic_exchange_explicit(&seen[position], 1, memory_order_relaxed) != 0) {
    fail("message %llu was delivered twice", (unsigned long long)position);
  }
  int64_t now = now_ns();
  delivery_ns[position] = now - stamp;
  keep_latest(&last_delivery_ns, now);
  atomic_fetch_add(&taken, 1);
}

int all_delivered(void) { return atomic_load(&taken) >= atomic_load(&expected); }

static void publish_closed_loop(struct publisher* publisher) {
  const int64_t end_ns =
      options.seconds > 0 ? start_ns + (int64_t)(options.seconds * 1e9) : INT64_MAX;
  uint64_t confirmed = 0;
  for (;;) {
    uint64_t room = options.window - (publisher->sent - confirmed);
    uint64_t left = now_ns() < end_ns ? publisher->share - publisher->sent : 0;
    uint64_t count = room < left ? room : left;
    if (count > 0) {
      publisher_send(publisher, count);
      publisher->sent += count;
    }
    if (confirmed == publisher->sent) return;
    confirmed = publisher_await(publisher, INT64_MAX);
  }
}

/* Sends what is due, however long that took and whatever is unconfirmed. */
static void publish_open_loop(struct publisher* publisher) {
  uint64_t confirmed = 0;
  while (publisher->sent < publisher->share) {
    int64_t now = now_ns();
    uint64_t count = 0;
    while (publisher->sent + count < publisher->share &&
           due_ns(publisher, publisher->sent + count) <= now) {
      count++;
    }
    if (count > 0) {
      publisher_send(publisher, count);
      publisher->sent += count;
    }
    if (publisher->sent < publisher->share) {
      confirmed = publisher_await(publisher, due_ns(publisher, publisher->sent));
    }
  }
  while (confirmed < publisher->sent) confirmed = publisher_await(publisher, INT64_MAX);
}

static void* run_publisher(void* argument) {
  struct publisher* publisher = argument;
  pthread_barrier_wait(&started);
  if (options.rate > 0) {
    publish_open_loop(publisher);
  } else {
    publish_closed_loop(publisher);
  }
  keep_latest(&last_confirm_ns, now_ns());
  atomic_fetch_add(&published, publisher->sent);
  if (atomic_fetch_sub(&publishing, 1) == 1) atomic_store(&expected, atomic_load(&published));
  return NULL;
}

static void* run_consumer(void* argument) {
  struct consumer* consumer = argument;
  pthread_barrier_wait(&started);
  /* With a publisher beside it a consumer is there first. */
  if (publishers == NULL) consumer_start(consumer);
  while (!all_delivered()) consumer_poll(consumer);
  consumer_finish(consumer);
  return NULL;
}

static void open_publishers(void) {
  publishers = array(options.connections, sizeof *publishers);
  for (unsigned i = 0; i < options.connections; i++) {
    struct publisher* publisher = &publishers[i];
    publisher->index = i;
    publisher->share = options.count / options.connections;
    publisher->done = array(publisher->share, 1);
    publisher->stamp_ns = array(publisher->share, sizeof(int64_t));
    publisher->confirm_ns = array(publisher->share, sizeof(int64_t));
    publisher_open(publisher);
  }
  publishing = options.connections;
}

static void open_consumers(void) {
  seen = array(options.count, 1);
  delivery_ns = array(options.count, sizeof(int64_t));
  consumers = array(options.connections, sizeof *consumers);
  for (unsigned i = 0; i < options.connections; i++) {
    consumers[i].index = i;
    consumer_open(&consumers[i]);
    if (publishers != NULL) consumer_start(&consumers[i]);
  }
}

static int compare(const void* left, const void* right) {
  int64_t a = *(const int64_t*)left;
  int64_t b = *(const int64_t*)right;
  return (a > b) - (a < b);
}

static void print_percentiles(const char* name, int64_t* values_ns, uint64_t count) {
  static const double kPercentiles[] = {50, 95, 99, 99.9};
  if (count == 0) return;
  qsort(values_ns, count, sizeof *values_ns, compare);
  printf(", \"%s\": {", name);
  for (size_t i = 0; i < sizeof kPercentiles / sizeof kPercentiles[0]; i++) {
    uint64_t at = (uint64_t)((double)count * kPercentiles[i] / 100);
    printf("%s\"p%g\": %.1f", i > 0 ? ", " : "", kPercentiles[i],
           (double)values_ns[at < count ? at : count - 1] / 1e3);
  }
  printf(", \"max\": %.1f}", (double)values_ns[count - 1] / 1e3);
}

/* Messages that were due before this are no part of the percentiles. */
static int64_t counted_from_ns(void) { return options.rate > 0 ? start_ns + kWarmUpNs : 0; }

static void print_latencies(void) {
  int64_t* values = array(options.count, sizeof *values);
  uint64_t count = 0;
  for (unsigned i = 0; i < options.connections; i++) {
    for (uint64_t number = 0; number < publishers[i].sent; number++) {
      if (publishers[i].stamp_ns[number] < counted_from_ns()) continue;
      values[count++] = publishers[i].confirm_ns[number];
    }
  }
  print_percentiles("confirm_us", values, count);
  count = 0;
  for (unsigned i = 0; consumers != NULL && i < options.connections; i++) {
    for (uint64_t number = 0; number < publishers[i].sent; number++) {
      if (publishers[i].stamp_ns[number] < counted_from_ns()) continue;
      values[count++] = delivery_ns[number * options.connections + i];
    }
  }
  print_percentiles("delivery_us", values, count);
  free(values);
}

static double cpu_s(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* Lets whoever drives the programs look at the broker in between; end of file lets it go on. */
static void await_word(void) {
  fflush(stdout);
  for (int byte = getchar(); byte != EOF && byte != '\n'; byte = getchar()) continue;
}

static void start_thread(pthread_t* thread, void* (*run)(void*), void* argument) {
  int error = pthread_create(thread, NULL, run, argument);
  if (error != 0) fail("pthread_create: %s", strerror(error));
}

static void run(int publish, int consume) {
  if (publish) {
    queues_declare();
    open_publishers();
  } else {
    expected = options.expect;
  }
  if (consume) open_consumers();
  const unsigned threads = options.connections * (unsigned)(publish + consume);
  pthread_t* thread = array(threads, sizeof *thread);
  pthread_barrier_init(&started, NULL, threads + 1);
  unsigned made = 0;
  for (unsigned i = 0; i < options.connections; i++) {
    if (consume) start_thread(&thread[made++], run_consumer, &consumers[i]);
    if (publish) start_thread(&thread[made++], run_publisher, &publishers[i]);
  }
  puts("ready");
  await_word();

  const double cpu_before_s = cpu_s();
  start_ns = now_ns();
  pthread_barrier_wait(&started);
  for (unsigned i = 0; i < threads; i++) pthread_join(thread[i], NULL);
  const double cpu_used_s = cpu_s() - cpu_before_s;

  const uint64_t messages = atomic_load(&expected);
  const int64_t end_ns = consume ? last_delivery_ns : last_confirm_ns;
  const double seconds = (double)(end_ns - start_ns) * 1e-9;
  printf("{\"messages\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"client_cpu_us\": %.3f",
         (unsigned long long)messages, seconds, (double)messages / seconds,
         cpu_used_s * 1e6 / (double)messages);
  if (publish) print_latencies();
  puts("}");
  await_word();
  for (unsigned i = 0; publish && i < options.connections; i++) publisher_close(&publishers[i]);
  for (unsigned i = 0; consume && i < options.connections; i++) consumer_close(&consumers[i]);
}

static const char kUsage[] =
    "usage: %s COMMAND [OPTION VALUE]...\n"
    "  publish   declares queues, publishes and takes confirms\n"
    "  drain     consumes and acknowledges --expect messages that publish --count left\n"
    "  both      publish, and consume at the same time; with --rate in an open loop\n"
    "  depth     prints how many messages are queued\n"
    "  delete    deletes the queues\n"
    "--host --port --prefix --queue-type --queues --connections --count --expect\n"
    "--seconds --size --window --prefetch --rate\n"
    "Prints `ready`, waits for a line or the end of stdin, prints its figures in JSON, waits "
    "again.\n";

static const struct option kOptions[] = {
    {"host", required_argument, NULL, 'h'},     {"port", required_argument, NULL, 'p'},
    {"prefix", required_argument, NULL, 'n'},   {"queue-type", required_argument, NULL, 't'},
    {"queues", required_argument, NULL, 'q'},   {"connections", required_argument, NULL, 'c'},
    {"count", required_argument, NULL, 'm'},    {"seconds", required_argument, NULL, 's'},
    {"size", required_argument, NULL, 'b'},     {"window", required_argument, NULL, 'w'},
    {"prefetch", required_argument, NULL, 'f'}, {"rate", required_argument, NULL, 'r'},
    {"expect", required_argument, NULL, 'e'},   {NULL, 0, NULL, 0}};

static void parse(int argc, char** argv) {
  for (int key; (key = getopt_long(argc, argv, "", kOptions, NULL)) != -1;) {
    switch (key) {
      case 'h':
        options.host = optarg;
        break;
      case 'p':
        options.port = atoi(optarg);
        break;
      case 'n':
        options.prefix = optarg;
        break;
      case 't':
        options.queue_type = optarg;
        break;
      case 'q':
        options.queues = (unsigned)atoi(optarg);
        break;
      case 'c':
        options.connections = (unsigned)atoi(optarg);
        break;
      case 'm':
        options.count = strtoull(optarg, NULL, 10);
        break;
      case 'e':
        options.expect = strtoull(optarg, NULL, 10);
        break;
      case 's':
        options.seconds = atof(optarg);
        break;
      case 'b':
        options.size = strtoull(optarg, NULL, 10);
        break;
      case 'w':
        options.window = strtoull(optarg, NULL, 10);
        break;
      case 'f':
        options.prefetch = (unsigned)atoi(optarg);
        break;
      case 'r':
        options.rate = atof(optarg);
        break;
      default:
        fail("%s", "see the usage, which is printed without arguments");
    }
  }
  if (optind != argc - 1) {
    fprintf(stderr, kUsage, argv[0]);
    exit(2);
  }
  options.command = argv[optind];
  if (options.port <= 0) fail("%s", "--port is missing");
  if (options.queues == 0 || options.queues > 1000) fail("%s", "--queues is 1 to 1000");
  if (options.connections == 0 || options.prefetch == 0 || options.window == 0) {
    fail("%s", "--connections, --prefetch and --window are at least 1");
  }
  if (options.size < kBodyMin) fail("--size is at least %d", kBodyMin);
  if (options.expect == 0) options.expect = options.count;
  if (options.count < options.connections) fail("%s", "--count is at least --connections");
}

int main(int argc, char** argv) {
  /* A thread that waits for its next message must wake in time. */
  prctl(PR_SET_TIMERSLACK, 1UL);
  parse(argc, argv);
  if (strcmp(options.command, "publish") == 0) {
    run(1, 0);
  } else if (strcmp(options.command, "drain") == 0) {
    run(0, 1);
  } else if (strcmp(options.command, "both") == 0) {
    run(1, 1);
  } else if (strcmp(options.command, "depth") == 0) {
    printf("%llu\n", (unsigned long long)queues_depth());
  } else if (strcmp(options.command, "delete") == 0) {
    queues_delete();
  } else {
    fail("unknown command %s", options.command);
  }
  return 0;
}
