// Speaks the function protocol's outer frame: a length, then bytes that only the two ends
// understand. argv[1] says how it behaves.
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint8_t buffer[1 << 20];

static size_t read_frame(int fd, size_t step) {
  size_t have = 0, want = 4;
  while (have < want) {
    size_t room = sizeof buffer - have;
    ssize_t got = read(fd, buffer + have, step < room ? step : room);
    if (got <= 0) exit(got == 0 ? 0 : 10);
    have += (size_t)got;
    if (have >= 4) {
      uint32_t length;
      memcpy(&length, buffer, 4);
      want = 4 + length;
    }
  }
  return have;
}

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "echo";
  const char* name = getenv("SLUICE_FD");
  if (name == NULL) return 11;
  int fd = atoi(name);
  static int calls;
  printf("started\n");
  fflush(stdout);
  if (strcmp(how, "poll") == 0) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, -1) != 1) return 12;
  }
  for (;;) {
    size_t bytes = read_frame(fd, strcmp(how, "pieces") == 0 ? 3 : sizeof buffer);
    calls++;
    if (strcmp(how, "pieces") == 0) {
      for (size_t i = 0; i < bytes; i++) write(fd, buffer + i, 1);
    } else if (strcmp(how, "print") == 0) {
      printf("to stdout\n");
      fflush(stdout);
      fprintf(stderr, "to stderr\n");
      write(fd, buffer, bytes);
    } else if (strcmp(how, "stdin") == 0) {
      char byte;
      if (read(0, &byte, 1) != 0) return 13;
      write(fd, buffer, bytes);
    } else if (strcmp(how, "again") == 0) {
      read_frame(fd, sizeof buffer);
    } else if (strcmp(how, "silent") == 0) {
      return 0;
    } else if (strcmp(how, "fails") == 0) {
      return 3;
    } else if (strcmp(how, "over") == 0) {
      write(fd, buffer, bytes + 1);
    } else if (strcmp(how, "half") == 0) {
      write(fd, buffer, bytes - 1);
      return 0;
    } else if (strcmp(how, "boasts") == 0) {
      uint32_t length = 0xfffffff0;
      write(fd, &length, 4);
      for (;;) write(fd, buffer, sizeof buffer);
    } else if (strcmp(how, "count") == 0) {
      uint8_t answer[8] = {4, 0, 0, 0, 0, 0, 0, 0};
      memcpy(answer + 4, &calls, 4);
      write(fd, answer, sizeof answer);
    } else {
      write(fd, buffer, bytes);
    }
  }
}
