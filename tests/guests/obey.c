// Speaks the function protocol (sdk/PROTOCOL.md) with code of its own, and does what the bodies of
// its records say, line by line:
//   result TEXT | whole TEXT | output EXCHANGE KEY TEXT | delayed MS KEY TEXT | state TEXT
//   log LEVEL TEXT | fail TEXT | fail-first TEXT | failure TEXT
//   describe | size | version | getstate    a result that tells about the call
//   print TEXT | crash | loop | exit STATUS | garbage | nothing
// In EXCHANGE and KEY a "-" is the empty text.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char* in;
static size_t in_room;
static char* out;
static size_t out_size, out_room;
static uint32_t records;
static const char* state;
static uint32_t state_size;
static int garbage;

static void put(const void* bytes, size_t count) {
  if (out_size + count > out_room) {
    out_room = (out_size + count) * 2;
    out = realloc(out, out_room);
  }
  memcpy(out + out_size, bytes, count);
  out_size += count;
}

static size_t begin_item(uint8_t tag) {
  uint32_t nothing = 0;
  put(&tag, 1);
  put(&nothing, 4);
  return out_size;
}

static void end_item(size_t begin) {
  uint32_t length = (uint32_t)(out_size - begin);
  memcpy(out + begin - 4, &length, 4);
}

static void put_item(uint8_t tag, const char* text, size_t length) {
  size_t item = begin_item(tag);
  put(text, length);
  end_item(item);
}

static void put_numbered(uint8_t tag, uint32_t number, const char* text, size_t length) {
  size_t item = begin_item(tag);
  put(&number, 4);
  put(text, length);
  end_item(item);
}

static int read_all(int fd, char* to, size_t count) {
  for (size_t done = 0; done < count;) {
    ssize_t got = read(fd, to + done, count - done);
    if (got <= 0) return 0;
    done += (size_t)got;
  }
  return 1;
}

static uint32_t u32_at(const char* at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return value;
}

// Cuts the next word off; "-" is empty.
static char* word(char** line) {
  char* begin = *line;
  char* end = strchrnul(begin, ' ');
  *line = *end ? end + 1 : end;
  *end = 0;
  if (strcmp(begin, "-") == 0) *begin = 0;
  return begin;
}

struct record {
  uint64_t id;
  uint32_t attempt, flags;
  const char *items, *end;
};

static void describe(uint32_t number, const struct record* r) {
  size_t item = begin_item(35);
  put(&number, 4);
  char text[512];
  int length = snprintf(text, sizeof text, "records=%u number=%u attempt=%u redelivered=%u",
                        records, number, r->attempt, r->flags & 1);
  put(text, (size_t)length);
  for (const char* at = r->items; at < r->end; at += 5 + u32_at(at + 1)) {
    uint8_t tag = (uint8_t)at[0];
    if (tag == 16) continue;
    length = snprintf(text, sizeof text, "\n%u=", tag);
    put(text, (size_t)length);
    const char* content = at + 5;
    uint32_t size = u32_at(at + 1);
    if (tag != 25) {
      put(content, size);
      continue;
    }
    uint16_t name;
    memcpy(&name, content + 1, 2);
    length = snprintf(text, sizeof text, "%u:%.*s:", content[0], name, content + 3);
    put(text, (size_t)length);
    for (uint32_t i = 3u + name; i < size; i++) {
      length = snprintf(text, sizeof text, "%02x", (uint8_t)content[i]);
      put(text, (size_t)length);
    }
  }
  end_item(item);
}

static void output(const char* exchange, const char* key, const char* text, uint64_t delay_ms) {
  size_t item = begin_item(36);
  put_item(16, text, strlen(text));
  put_item(17, exchange, strlen(exchange));
  put_item(18, key, strlen(key));
  put_item(19, "text/plain", 10);
  static const char header[] = "\1\4\0fromguest";
  put_item(25, header, sizeof header - 1);
  if (delay_ms > 0) put_item(38, (const char*)&delay_ms, 8);
  end_item(item);
}

static void obey(char* line, uint32_t number, const struct record* r) {
  char* what = word(&line);
  if (!strcmp(what, "result")) put_numbered(35, number, line, strlen(line));
  if (!strcmp(what, "whole")) put_numbered(35, 0xffffffff, line, strlen(line));
  if (!strcmp(what, "state")) put_item(34, line, strlen(line));
  if (!strcmp(what, "failure")) put_item(32, line, strlen(line));
  if (!strcmp(what, "fail")) put_numbered(33, number, line, strlen(line));
  if (!strcmp(what, "fail-first") && r->attempt == 1) put_numbered(33, number, line, strlen(line));
  if (!strcmp(what, "describe")) describe(number, r);
  if (!strcmp(what, "getstate")) put_numbered(35, number, state, state_size);
  if (!strcmp(what, "version")) {
    const char* version = getenv("VERSION");
    put_numbered(35, number, version ? version : "", version ? strlen(version) : 0);
  }
  if (!strcmp(what, "size")) {
    char text[16];
    int length = snprintf(text, sizeof text, "%u", records);
    put_numbered(35, number, text, (size_t)length);
  }
  if (!strcmp(what, "output")) {
    char* exchange = word(&line);
    char* key = word(&line);
    output(exchange, key, line, 0);
  }
  if (!strcmp(what, "delayed")) {
    uint64_t delay_ms = strtoull(word(&line), NULL, 10);
    char* key = word(&line);
    output("", key, line, delay_ms);
  }
  if (!strcmp(what, "log")) {
    uint8_t level = (uint8_t)atoi(word(&line));
    size_t item = begin_item(37);
    put(&level, 1);
    put(line, strlen(line));
    end_item(item);
  }
  if (!strcmp(what, "print")) {
    puts(line);
    fflush(stdout);
  }
  if (!strcmp(what, "crash")) *(volatile int*)0 = 1;
  if (!strcmp(what, "exit")) _exit(atoi(line));
  if (!strcmp(what, "garbage")) garbage = 1;
  while (!strcmp(what, "loop")) __asm__ volatile("");
}

static void serve_record(const char* content, uint32_t size, uint32_t number) {
  struct record r;
  memcpy(&r.id, content, 8);
  r.attempt = u32_at(content + 16);
  r.flags = u32_at(content + 20);
  r.items = content + 24;
  r.end = content + size;
  for (const char* at = r.items; at < r.end; at += 5 + u32_at(at + 1)) {
    if (at[0] != 16) continue;
    uint32_t length = u32_at(at + 1);
    char* body = malloc(length + 1u);
    memcpy(body, at + 5, length);
    body[length] = 0;
    for (char *line = body, *next; line != NULL; line = next) {
      next = strchr(line, '\n');
      if (next != NULL) *next++ = 0;
      obey(line, number, &r);
    }
    free(body);
  }
}

int main(void) {
  const char* variable = getenv("SLUICE_FD");
  if (variable == NULL) return 3;
  int fd = atoi(variable);
  in_room = 65536;
  in = malloc(in_room);
  for (;;) {
    // As PROTOCOL.md asks for: one read for a frame that is not large.
    size_t have = 0, want = 4;
    while (have < want) {
      ssize_t got = read(fd, in + have, in_room - have);
      if (got <= 0) return 0;
      have += (size_t)got;
      if (have >= 4) want = 4u + u32_at(in);
      if (want > in_room) {
        in_room = want;
        in = realloc(in, in_room);
        if (in == NULL || !read_all(fd, in + have, want - have)) return 0;
        have = want;
      }
    }
    uint32_t length = u32_at(in);
    records = u32_at(in + 20);
    state = "";
    state_size = 0;
    garbage = 0;
    out_size = 0;
    put("\0\0\0\0\1\0\0\0", 8);
    uint32_t number = 0;
    for (const char *at = in + 24, *end = in + 4 + length; at < end; at += 5 + u32_at(at + 1)) {
      if (at[0] == 1) {
        state = at + 5;
        state_size = u32_at(at + 1);
      }
      if (at[0] == 5) serve_record(at + 5, u32_at(at + 1), number++);
    }
    if (garbage) put("\x21\xff\xff\0\0", 5);
    uint32_t answer = (uint32_t)(out_size - 4);
    memcpy(out, &answer, 4);
    for (size_t done = 0; done < out_size;) {
      ssize_t written = write(fd, out + done, out_size - done);
      if (written <= 0) return 4;
      done += (size_t)written;
    }
  }
}
