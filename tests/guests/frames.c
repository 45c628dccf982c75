// Speaks the function protocol with its bare hands: answers an invocation frame with a frame, in
// the way that its argument names. Prints to both streams, which are its log.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int calls;

static int read_all(int fd, void* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = read(fd, (char*)to + done, bytes - done);
    if (got <= 0) return -1;
    done += got;
  }
  return 0;
}

static void write_all(int fd, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t put = write(fd, (const char*)from + done, bytes - done);
    if (put <= 0) exit(5);
    done += put;
  }
}

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "echo";
  const char* where = getenv("SLUICE_FD");
  if (!where) return 3;
  int fd = atoi(where);
  if (!strcmp(how, "early")) write_all(fd, "\xff\xff\xff\x7f....", 8);
  printf("started\n");
  fflush(stdout);
  for (;;) {
    uint32_t bytes;
    if (read_all(fd, &bytes, sizeof bytes)) return 0;
    char* frame = malloc(bytes + 1);
    if (read_all(fd, frame, bytes)) return 4;
    fprintf(stderr, "call %d of %u bytes\n", ++calls, bytes);
    if (!strcmp(how, "echo")) {
      write_all(fd, &bytes, sizeof bytes);
      write_all(fd, frame, bytes);
    }
    if (!strcmp(how, "silent")) return 0;
    if (!strcmp(how, "fail")) return 6;
    if (!strcmp(how, "crash")) abort();
    if (!strcmp(how, "loop")) {
      for (;;) {
      }
    }
    if (!strcmp(how, "half")) {
      write_all(fd, &bytes, sizeof bytes);
      return 0;
    }
    if (!strcmp(how, "huge")) {
      bytes = 0xfffffffe;
      write_all(fd, &bytes, sizeof bytes);
    }
    free(frame);
  }
}
