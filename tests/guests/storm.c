// Makes system calls with hostile arguments. Input: "SEED COUNT NUMBER...", the numbers to choose
// from. Prints "done" if it lives to tell.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t state;
static char input[8192];
static char scratch[65536];

static uint64_t next(void) {  // xorshift64*
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 2685821657736338717ull;
}

static uint64_t argument(char* guarded) {
  static const uint64_t edges[] = {0,          1,           2,           3,           4096,
                                   0x7fffffff, 0x80000000,  0xffffffff,  ~0ull,       1ull << 63,
                                   1ull << 47, 0x7fffc0000, 0x100000000, 0x7fffc0004, 511};
  switch (next() % 8) {
    case 0:
      return edges[next() % (sizeof edges / sizeof *edges)];
    case 1:
      return next();
    case 2:
      return next() % 70;
    case 3:
      return (uint64_t)(guarded + 4096 - next() % 64);  // runs into what is not mapped
    case 4:
      return 0x7fffc0000000ull + next() % 0x20000;  // the stubs
    case 5:
      return (uint64_t)&state & ~4095ull;
    default:
      // Its content is random too: structures, paths, lists of addresses.
      for (int i = 0; i < 16; i++) {
        uint64_t word = next() % 3 ? next() % 128 : (uint64_t)(scratch + next() % sizeof scratch);
        memcpy(scratch + (next() % 4000) * 8, &word, 8);
      }
      if (next() % 4 == 0) strcpy(scratch + 256, next() % 2 ? "/tmp/x" : "/dev/../tmp//./y/");
      return (uint64_t)(scratch + next() % 512);
  }
}

int main(void) {
  char* guarded = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(guarded + 4096, 4096);
  ssize_t got = read(0, input, sizeof input - 1);
  if (got <= 0) return 1;
  char* at = input;
  state = strtoull(at, &at, 10) | 1;
  long count = strtol(at, &at, 10);
  static long numbers[600];
  int known = 0;
  for (char* before = at; known < 600; before = at) {
    numbers[known] = strtol(at, &at, 10);
    if (at == before) break;
    known++;
  }
  if (known == 0) return 2;
  for (long i = 0; i < count; i++) {
    long number = numbers[next() % (uint64_t)known];
    uint64_t a[6];
    for (int k = 0; k < 6; k++) a[k] = argument(guarded);
    syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  }
  static const char done[] = "done";
  write(1, done, 4);
  return 0;
}
