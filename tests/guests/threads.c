// Threads, by argv[1]; prints what came of it.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int sum, turn, wanted = -1, answer = -1;
static __thread int own;
static atomic_int spins, stop_spinning;

static void start(pthread_t* thread, void* (*run)(void*), void* argument) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 << 10);
  int error = pthread_create(thread, &attributes, run, argument);
  if (error != 0) {
    printf("pthread_create: %s\n", strerror(error));
    exit(1);
  }
}

static void* add(void* argument) {
  for (int i = 0; i < 1000; i++) {
    pthread_mutex_lock(&mutex);
    sum++;
    own++;
    pthread_mutex_unlock(&mutex);
    if (i % 100 == 0) sched_yield();
  }
  return (void*)(intptr_t)(own + (int)(intptr_t)argument);
}

// Passes a turn around, so each waits for the one before.
static void* take_turns(void* argument) {
  int me = (int)(intptr_t)argument;
  for (int round = 0; round < 20; round++) {
    pthread_mutex_lock(&mutex);
    while (turn % 4 != me) pthread_cond_wait(&changed, &mutex);
    turn++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}

static void* spin(void* argument) {
  (void)argument;
  // Registers of every kind must survive the turns of others.
  double x = 1.5;
  uint64_t n = 0;
  while (!atomic_load_explicit(&stop_spinning, memory_order_relaxed)) {
    x = x * 1.0000001 + 0.1;
    if (x > 1e9) x = 1.5;
    n++;
    atomic_fetch_add_explicit(&spins, 1, memory_order_relaxed);
  }
  return n > 0 && x > 0 ? (void*)1 : NULL;
}

static void* square_on_demand(void* argument) {
  (void)argument;
  pthread_mutex_lock(&mutex);
  for (;;) {
    while (wanted < 0) pthread_cond_wait(&changed, &mutex);
    answer = wanted * wanted;
    wanted = -1;
    pthread_cond_broadcast(&changed);
  }
}

static int from_main[2], to_main[2];

// Doubles numbers that come through one pipe and sends them back through the other.
static void* doubles(void* argument) {
  (void)argument;
  int epoll = epoll_create1(0), counter = eventfd(0, EFD_NONBLOCK);
  struct epoll_event watched = {.events = EPOLLIN, .data.fd = counter}, ready;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &watched) < 0) return NULL;
  uint64_t count = 0;
  if (read(counter, &count, 8) != -1 || errno != EAGAIN) return NULL;
  if (epoll_wait(epoll, &ready, 1, 5) != 0) return NULL;
  watched.data.fd = from_main[0];
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, from_main[0], &watched) < 0) return NULL;
  for (int number;;) {
    if (epoll_wait(epoll, &ready, 1, -1) != 1) return NULL;
    if (ready.data.fd == counter) break;
    ssize_t got = read(from_main[0], &number, sizeof number);
    if (got == 0) {
      count = 3;
      write(counter, &count, 8);
      epoll_ctl(epoll, EPOLL_CTL_DEL, from_main[0], NULL);
      continue;
    }
    number *= 2;
    write(to_main[1], &number, sizeof number);
  }
  read(counter, &count, 8);
  return (void*)(uintptr_t)count;
}

static void* sleeps(void* argument) {
  struct timespec t = {0, 20000000};
  nanosleep(&t, NULL);
  return argument;
}

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "sum";
  pthread_t threads[64];
  char buffer[64] = {0};
  if (strcmp(how, "pool") == 0) start(&threads[0], square_on_demand, NULL);
  if (strcmp(how, "spun") == 0) start(&threads[0], spin, NULL);
  if (read(0, buffer, sizeof buffer - 1) < 0) return 2;
  int n = atoi(buffer);
  if (strcmp(how, "sum") == 0) {
    int results = 0;
    for (int i = 0; i < n; i++) start(&threads[i], add, (void*)(intptr_t)i);
    for (int i = 0; i < n; i++) {
      void* result;
      pthread_join(threads[i], &result);
      results += (int)(intptr_t)result;
    }
    printf("%d %d %d\n", sum, results, own);
  } else if (strcmp(how, "turns") == 0) {
    for (int i = 0; i < 4; i++) start(&threads[i], take_turns, (void*)(intptr_t)i);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    printf("%d\n", turn);
  } else if (strcmp(how, "spin") == 0 || strcmp(how, "spun") == 0) {
    if (strcmp(how, "spin") == 0) start(&threads[0], spin, NULL);
    // Its turns come although neither of us makes a system call.
    int before = atomic_load(&spins);
    while (atomic_load(&spins) - before < 1000) {
    }
    atomic_store(&stop_spinning, 1);
    void* result;
    pthread_join(threads[0], &result);
    printf("spun %d\n", result != NULL);
  } else if (strcmp(how, "pool") == 0) {
    pthread_mutex_lock(&mutex);
    wanted = n;
    pthread_cond_broadcast(&changed);
    while (answer < 0) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("%d\n", answer);
  } else if (strcmp(how, "sleep") == 0) {
    for (int i = 0; i < n; i++) start(&threads[i], sleeps, NULL);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    printf("slept\n");
  } else if (strcmp(how, "pipes") == 0) {
    pipe(from_main);
    pipe(to_main);
    start(&threads[0], doubles, NULL);
    int sum_of = 0;
    for (int i = 1; i <= n; i++) {
      int number = i;
      write(from_main[1], &number, sizeof number);
      if (read(to_main[0], &number, sizeof number) != sizeof number) return 3;
      sum_of += number;
    }
    close(from_main[1]);
    void* result;
    pthread_join(threads[0], &result);
    printf("%d %d\n", sum_of, (int)(uintptr_t)result);
  } else if (strcmp(how, "full") == 0) {
    // A pipe takes 64 KiB; who writes more waits for who reads.
    static char block[100000];
    pipe(from_main);
    fcntl(from_main[1], F_SETFL, O_NONBLOCK);
    ssize_t put = write(from_main[1], block, sizeof block);
    ssize_t none = write(from_main[1], block, 1);
    printf("%zd %zd %s\n", put, none, strerror(errno));
    close(from_main[0]);
    put = write(from_main[1], block, 1);
    printf("%zd %s\n", put, strerror(errno));
  } else if (strcmp(how, "timed") == 0) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 10000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    printf("%s\n", strerror(pthread_cond_timedwait(&changed, &mutex, &t)));
  } else if (strcmp(how, "leave") == 0) {
    start(&threads[0], sleeps, NULL);
    pthread_exit(NULL);  // the program ends with its last thread
  } else if (strcmp(how, "stuck") == 0) {
    pthread_mutex_lock(&mutex);
    pthread_mutex_lock(&mutex);
  }
  return 0;
}
