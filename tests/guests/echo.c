// Copies stdin to stdout, and says how much on stderr. Arguments and environment come first when
// asked for with "show".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char** environ;

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "show") == 0) {
    for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
    for (char** e = environ; *e; e++) printf("env %s\n", *e);
    fflush(stdout);
  }
  static char buffer[65536];
  size_t total = 0;
  for (;;) {
    ssize_t got = read(0, buffer, sizeof buffer);
    if (got < 0) return 1;
    if (got == 0) break;
    for (ssize_t done = 0; done < got;) {
      ssize_t put = write(1, buffer + done, got - done);
      if (put < 0) return 2;
      done += put;
    }
    total += got;
  }
  fprintf(stderr, "%zu bytes", total);
  return 0;
}
