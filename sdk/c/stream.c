#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "sdk/c/call.h"

// The loop: one read, one write for a call that fits its buffers.

// Page by page, so that a short frame touches one of each.
static _Alignas(4096) uint8_t first_in[kBufferBytes];
static _Alignas(4096) uint8_t first_out[kBufferBytes];
static _Alignas(4096) uint8_t first_arranged[kBufferBytes];

static sluice_call the_call = {
    .in = {first_in, kBufferBytes, false},
    .out = {first_out, kBufferBytes, false},
    .arranged = {first_arranged, kBufferBytes, false},
    .index = the_call.first_index,
    .index_capacity = kRecordsFirst,
};

static enum { kNotOpened, kWaiting, kInCall, kEnded, kBroken } phase = kNotOpened;
static int descriptor = -1;  // -1: outside Sluice
static sluice_hook call_hook;
static void* call_hook_context;
static char error_text[160];
static const char* error = "";

const char* sluice_error(void) { return error; }

void sluice_set_error_(const char* sentence) { error = sentence; }

static int break_off(const char* what, const char* why) {
  snprintf(error_text, sizeof error_text, "%s: %s", what, why);
  error = error_text;
  phase = kBroken;
  return -1;
}

static int open_stream(void) {
  phase = kWaiting;
  const char* const text = getenv("SLUICE_FD");
  if (text == NULL) return 0;
  char* end = NULL;
  errno = 0;
  const long number = strtol(text, &end, 10);
  if (errno != 0 || *text == '\0' || *end != '\0' || number < 0 || number > 1 << 20) {
    return break_off("SLUICE_FD is not the number of a descriptor", text);
  }
  descriptor = (int)number;
  return 0;
}

// Reads until `wanted` bytes of the frame are there: 1; 0 where the stream ends before the first;
// -1.
static int read_until(sluice_call* call, size_t wanted) {
  while (call->in_used < wanted) {
    const ssize_t got =
        read(descriptor, call->in.data + call->in_used, call->in.capacity - call->in_used);
    if (got > 0) {
      call->in_used += (size_t)got;
    } else if (got == 0) {
      if (call->in_used == 0) return 0;
      return break_off("the invocation can not be read", "the stream ends within it");
    } else if (errno != EINTR) {
      return break_off("the invocation can not be read", strerror(errno));
    }
  }
  return 1;
}

static int read_frame(sluice_call* call) {
  // What was read beyond the frame before is the start of this one.
  call->in_used -= call->frame_bytes;
  if (call->in_used > 0) {
    memmove(call->in.data, call->in.data + call->frame_bytes, call->in_used);
  }
  call->frame_bytes = 0;
  const int got = read_until(call, 4);
  if (got <= 0) return got;
  const uint32_t length = load_u32(call->in.data);
  if (length > kInvocationBytesMax) {
    return break_off("the invocation breaks the protocol", "it is longer than 64 MiB");
  }
  if (!sluice_grow_(&call->in, 4 + (size_t)length, call->in_used)) {
    return break_off("the invocation can not be read", "there is no memory for it");
  }
  if (read_until(call, 4 + (size_t)length) < 0) return -1;
  call->frame_bytes = 4 + (size_t)length;
  return 1;
}

static int receive(sluice_call* call) {
  if (descriptor >= 0) return read_frame(call);
  if (call->frame_bytes > 0) return 0;  // the one call there is outside Sluice
  const char* const problem = sluice_local_invocation_(call);
  return problem == NULL ? 1 : break_off("the input can not be read", problem);
}

static int run_hook(void) {
  uint8_t seed[32];
  ssize_t got;
  do {
    got = getrandom(seed, sizeof seed, 0);
  } while (got < 0 && errno == EINTR);
  if (got != (ssize_t)sizeof seed) {
    return break_off("there is nothing to seed with", strerror(errno));
  }
  call_hook(seed, call_hook_context);
  return 0;
}

int sluice_next(sluice_call** call) {
  if (phase == kNotOpened && open_stream() < 0) return -1;
  if (phase == kInCall) {
    return break_off("sluice_next", "the call before has not been answered");
  }
  if (phase != kWaiting) return phase == kEnded ? 0 : -1;
  const int got = receive(&the_call);
  if (got < 0) return -1;
  if (got == 0) {
    phase = kEnded;
    return 0;
  }
  const char* const problem = sluice_parse_(&the_call);
  if (problem != NULL) return break_off("the invocation breaks the protocol", problem);
  sluice_clear_answer_(&the_call);
  phase = kInCall;
  if (call_hook != NULL && run_hook() < 0) return -1;
  *call = &the_call;
  return 1;
}

static int send_frame(const uint8_t* frame, size_t size) {
  while (size > 0) {
    const ssize_t put = write(descriptor, frame, size);
    if (put >= 0) {
      frame += put;
      size -= (size_t)put;
    } else if (errno != EINTR) {
      return break_off("the answer can not be written", strerror(errno));
    }
  }
  return 0;
}

int sluice_answer(sluice_call* call) {
  if (phase == kBroken) return -1;
  if (phase != kInCall) return break_off("sluice_answer", "the call has been answered before");
  phase = kWaiting;
  // In a sandbox nothing runs after the answer: what the program printed must be out before.
  fflush(stdout);
  size_t size = 0;
  const uint8_t* const frame = sluice_finish_answer_(call, &size);
  if (descriptor >= 0) return send_frame(frame, size);
  bool failed = false;
  const char* const problem = sluice_local_answer_(frame, size, &failed);
  if (problem != NULL) return break_off("the answer can not be shown", problem);
  return failed ? 1 : 0;
}

int sluice_run(sluice_handler handler, void* context) {
  sluice_call* call = NULL;
  int status = 0;
  int got;
  while ((got = sluice_next(&call)) > 0) {
    const int answer = handler(call, context);
    if (answer != 0) sluice_fail(call, "the handler returned %d", answer);
    const int sent = sluice_answer(call);
    if (sent < 0) got = -1;
    if (sent != 0) status = 1;
    if (sent < 0) break;
  }
  if (got < 0) {
    fprintf(stderr, "sluice: %s\n", sluice_error());
    status = 1;
  }
  return status;
}

int sluice_reserve(size_t invocation_bytes, size_t answer_bytes) {
  if (!sluice_grow_(&the_call.in, invocation_bytes, the_call.in_used) ||
      !sluice_grow_(&the_call.out, answer_bytes, the_call.out_used)) {
    error = "there is no memory for buffers this large";
    return -1;
  }
  return 0;
}

void sluice_on_call(sluice_hook hook, void* context) {
  call_hook = hook;
  call_hook_context = context;
}
