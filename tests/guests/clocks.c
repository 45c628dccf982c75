// Reads clocks many times and sleeps in between; says what was wrong, or nothing. argv[1] "spin"
// takes CPU time instead, "files" opens as many as it may, "fill" writes to a file.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char** argv) {
  char byte;
  const char* how = argc > 1 ? argv[1] : "";
  int64_t first = read_clock(CLOCK_MONOTONIC);
  if (read(0, &byte, 1) < 0) return 1;
  if (strcmp(how, "spin") == 0) {
    for (volatile uint64_t i = 0;; i++) {
    }
  }
  if (strcmp(how, "files") == 0) {
    while (open("/dev/null", O_RDONLY) >= 0) {
    }
    return 9;
  }
  if (strcmp(how, "fill") == 0) {
    static char block[4096];
    int fd = open("/tmp/f", O_CREAT | O_WRONLY, 0600);
    while (write(fd, block, sizeof block) > 0) {
    }
    return 9;
  }
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 1000; i++) {
      int64_t now = read_clock(CLOCK_MONOTONIC);
      if (now < first) printf("back by %lld ns\n", (long long)(first - now));
      first = now;
    }
    int64_t before = read_clock(CLOCK_MONOTONIC);
    struct timespec t = {0, 3000000};
    nanosleep(&t, NULL);
    int64_t slept = read_clock(CLOCK_MONOTONIC) - before;
    if (slept < 3000000) printf("slept %lld ns only\n", (long long)slept);
  }
  struct timeval of_day;
  gettimeofday(&of_day, NULL);
  int64_t seconds = read_clock(CLOCK_REALTIME) / 1000000000;
  if (of_day.tv_sec - seconds > 1 || seconds - of_day.tv_sec > 1) printf("two realtimes\n");
  if (time(NULL) - seconds > 1) printf("another time\n");
  printf("%lld", (long long)read_clock(CLOCK_REALTIME));
  return 0;
}
