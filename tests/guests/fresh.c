// Prints what must differ between two calls of one snapshot: random bytes and the time.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

int main(void) {
  char buffer[16];
  if (read(0, buffer, sizeof buffer) < 0) return 1;
  uint64_t random, given;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return 2;
  memcpy(&given, (const void*)getauxval(AT_RANDOM), sizeof given);
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  printf("%016llx %016llx %lld.%09ld\n", (unsigned long long)random, (unsigned long long)given,
         (long long)t.tv_sec, t.tv_nsec);
  return 0;
}
