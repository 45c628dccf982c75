#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sdk/c/call.h"

// Outside Sluice: stdin is the one record of one call, which is made into a frame like any other,
// and the answer is shown to a person. Nothing here has to be quick.

// Appends all that `fd` gives to the frame.
static const char* read_all(struct buffer* frame, size_t* used, int fd) {
  for (;;) {
    if (*used == frame->capacity && !sluice_grow_(frame, 2 * *used, *used)) {
      return "there is no memory for it";
    }
    const ssize_t got = read(fd, frame->data + *used, frame->capacity - *used);
    if (got == 0) return NULL;
    if (got > 0) *used += (size_t)got;
    if (got < 0 && errno != EINTR) return strerror(errno);
    if (*used > kInvocationBytesMax) return "it is longer than 64 MiB";
  }
}

static void begin_item(struct buffer* frame, size_t* used, uint8_t tag) {
  frame->data[*used] = tag;
  store_u32(frame->data + *used + 1, 0);
  *used += kItemHeaderBytes;
}

static void end_item(struct buffer* frame, size_t used, size_t started) {
  store_u32(frame->data + started + 1, (uint32_t)(used - started - kItemHeaderBytes));
}

static const char* read_state(struct buffer* frame, size_t* used, const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? NULL : strerror(errno);
  const size_t started = *used;
  begin_item(frame, used, kTagState);
  const char* const problem = read_all(frame, used, fd);
  close(fd);
  end_item(frame, *used, started);
  return problem;
}

const char* sluice_local_invocation_(sluice_call* call) {
  struct buffer* const frame = &call->in;
  size_t used = kInvocationHeaderBytes;
  const char* const state_path = getenv("SLUICE_STATE");
  const char* problem = state_path == NULL ? NULL : read_state(frame, &used, state_path);
  if (problem != NULL) return problem;
  // Room for what is written next without a look at it; read_all makes its own.
  if (!sluice_grow_(frame, used + 256, used)) return "there is no memory for it";
  const size_t record_at = used;
  begin_item(frame, &used, kTagRecord);
  store_u64(frame->data + used, 1);
  store_u64(frame->data + used + 8, (uint64_t)time(NULL) * 1000);
  store_u32(frame->data + used + 16, 1);
  store_u32(frame->data + used + 20, 0);
  used += kRecordHeaderBytes;
  const size_t body_at = used;
  begin_item(frame, &used, kTagBody);
  problem = read_all(frame, &used, STDIN_FILENO);
  if (problem != NULL) return problem;
  end_item(frame, used, body_at);
  end_item(frame, used, record_at);
  store_u32(frame->data, (uint32_t)(used - 4));
  store_u16(frame->data + 4, kVersion);
  store_u16(frame->data + 6, 0);
  store_u64(frame->data + 8, UINT64_MAX);
  store_u32(frame->data + 16, UINT32_MAX);
  store_u32(frame->data + 20, 1);
  call->in_used = used;
  call->frame_bytes = used;
  return NULL;
}

static void show(const char* what, const uint8_t* text, size_t size) {
  fprintf(stderr, "%s: ", what);
  fwrite(text, 1, size, stderr);
  fputc('\n', stderr);
}

static void show_output(const struct item* output) {
  const uint8_t* at = output->content;
  const uint8_t* const end = at + output->size;
  struct item item;
  struct item body = {0, 0, at}, exchange = body, routing_key = body;
  while (sluice_next_item_(&at, end, &item) > 0) {
    if (item.tag == kTagBody) body = item;
    if (item.tag == kTagExchange) exchange = item;
    if (item.tag == kTagRoutingKey) routing_key = item;
  }
  fputs("output ", stderr);
  fwrite(exchange.content, 1, exchange.size, stderr);
  fputc('/', stderr);
  fwrite(routing_key.content, 1, routing_key.size, stderr);
  show("", body.content, body.size);
}

static const char* write_state(const struct item* state) {
  const char* const path = getenv("SLUICE_STATE");
  if (path == NULL) {
    show("state", state->content, state->size);
    return NULL;
  }
  FILE* const file = fopen(path, "we");
  if (file == NULL) return strerror(errno);
  const size_t put = fwrite(state->content, 1, state->size, file);
  if (fclose(file) != 0 || put != state->size) return strerror(errno);
  return NULL;
}

static const char* drop_state(void) {
  const char* const path = getenv("SLUICE_STATE");
  if (path == NULL) {
    fputs("state dropped\n", stderr);
  } else if (unlink(path) != 0 && errno != ENOENT) {
    return strerror(errno);
  }
  return NULL;
}

static void show_item(const struct item* item) {
  static const char* const kLevels[] = {"debug", "info", "warning", "error"};
  if (item->tag == kTagFailure) show("failed", item->content, item->size);
  if (item->tag == kTagFailed) show("failed", item->content + 4, item->size - 4);
  if (item->tag == kTagResult) fwrite(item->content + 4, 1, item->size - 4, stdout);
  if (item->tag == kTagOutput) show_output(item);
  if (item->tag == kTagLog) show(kLevels[item->content[0] & 3], item->content + 1, item->size - 1);
}

const char* sluice_local_answer_(const uint8_t* frame, size_t size, bool* failed) {
  const uint8_t* at = frame + kAnswerHeaderBytes;
  struct item item;
  struct item state = {0, 0, NULL};
  while (sluice_next_item_(&at, frame + size, &item) > 0) {
    if (item.tag == kTagFailure || item.tag == kTagFailed) *failed = true;
    if (item.tag == kTagNewState) state = item;
    show_item(&item);
  }
  if (fflush(stdout) != 0) return strerror(errno);
  // As in Sluice, what failed leaves the state as it was.
  if (*failed) return NULL;
  if (state.content != NULL) return write_state(&state);
  return (load_u16(frame + 6) & kFlagDropState) != 0 ? drop_state() : NULL;
}
