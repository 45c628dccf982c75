// The Sluice SDK for C: a function that reads its calls from Sluice and answers them.
//
//     static int handle(sluice_call* call, void* context) {
//       sluice_record record = sluice_record_at(call, 0);
//       return sluice_result(call, SLUICE_WHOLE, record.body.data, record.body.size);
//     }
//     int main(void) { return sluice_run(handle, NULL); }
//
// What a program does before sluice_run (or the first sluice_next) happens once for an image: it is
// part of the snapshot that each call starts from. See sdk/README.md, and sdk/PROTOCOL.md for what
// goes over the wire.
//
// Threads: one at a time; there is one call at a time in a process. Lifetime: everything that a
// function here hands out lives until the next sluice_next, and what is passed in is copied at
// once. Memory: buffers of 64 KiB each are there from the start and reused, and only the pages that
// a call needs of them are touched; longer calls and answers grow them by malloc.
//
// Errors: functions that return an int give 0, or -1 where they could not do what was asked; then
// the whole answer becomes a failure that says why, so a forgotten check never loses a part of it.
#ifndef SLUICE_H
#define SLUICE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SLUICE_PRINTF(text, values) __attribute__((__format__(__printf__, text, values)))
#else
#define SLUICE_PRINTF(text, values)
#endif

// Bytes that somebody else owns, not terminated by a zero. Where something is absent `data` is
// NULL; where it is there and empty it is not.
typedef struct sluice_bytes {
  const char* data;
  size_t size;
} sluice_bytes;

static inline sluice_bytes sluice_text(const char* text) {
  sluice_bytes bytes = {text, text ? strlen(text) : 0};
  return bytes;
}

// One call: what came, and the answer as far as it is built.
typedef struct sluice_call sluice_call;

// ---- The loop ----

// Returns 0 where the call succeeded; another value fails it, unless sluice_fail has said why.
typedef int (*sluice_handler)(sluice_call* call, void* context);

// Serves calls until their stream ends. Returns what main should return: 0, or 1 after saying on
// stderr what was wrong. Where the variable SLUICE_FD is not set, stdin is the one record of one
// call.
int sluice_run(sluice_handler handler, void* context);

// A loop of one's own. Returns 1 with a call, which must be answered before the next; 0 at the end
// of the stream; -1 when the stream can not be read or what came breaks the protocol:
// sluice_error() tells, and nothing more can be read.
int sluice_next(sluice_call** call);

// Sends the answer. 0, or -1 when it could not be sent: sluice_error() tells. Outside Sluice 1
// where the call or its record failed.
int sluice_answer(sluice_call* call);

// One sentence for people about the last failure; never NULL.
const char* sluice_error(void);

// Makes the buffers this large beforehand, so that the snapshot has them and no call has to grow
// them. 0 leaves one as it is. -1 where there is not so much memory.
int sluice_reserve(size_t invocation_bytes, size_t answer_bytes);

// `hook` runs at the start of each call with 32 bytes that no other call has seen. A random
// generator that is seeded before the first call is the same in every call, so seed it here. Costs
// one getrandom per call; without a hook nothing. NULL takes it away.
typedef void (*sluice_hook)(const uint8_t seed[32], void* context);
void sluice_on_call(sluice_hook hook, void* context);

// ---- What came ----

// How many records the call has: at least 1, but the last call of a window may have none.
uint32_t sluice_record_count(const sluice_call* call);

// A message. Those of its properties that it does not have are NULL.
typedef struct sluice_record {
  uint64_t id;            // its sequence in its queue
  uint64_t published_ms;  // when the broker took it, since the epoch
  uint32_t attempt;       // from 1
  bool redelivered;       // it may have been delivered before
  sluice_bytes body;
  sluice_bytes exchange;
  sluice_bytes routing_key;
  sluice_bytes content_type;
  sluice_bytes content_encoding;
  sluice_bytes message_id;
  sluice_bytes correlation_id;
  sluice_bytes reply_to;
  sluice_bytes type;
  sluice_bytes items_;  // for sluice_next_header
} sluice_record;

// The record number `index`, counted from 0; all zeros where there is none.
sluice_record sluice_record_at(const sluice_call* call, uint32_t index);

typedef enum sluice_kind {
  SLUICE_NONE = 0,
  SLUICE_TEXT = 1,
  SLUICE_BYTES = 2,
  SLUICE_INTEGER = 3,
  SLUICE_FLOAT = 4,
  SLUICE_BOOLEAN = 5,
  SLUICE_TIME = 6,   // seconds since the epoch
  SLUICE_TABLE = 7,  // a table or a list, as AMQP 0-9-1 encodes them
} sluice_kind;

// A header of a record or of an output. A kind of a later version comes with its number and
// `bytes`.
typedef struct sluice_header {
  sluice_bytes name;
  int kind;            // sluice_kind
  sluice_bytes bytes;  // the value as it is on the wire
  int64_t integer;     // SLUICE_INTEGER, SLUICE_TIME; SLUICE_BOOLEAN: 0 or 1
  double number;       // SLUICE_FLOAT
} sluice_header;

// Whether the record has a header of that name; the first one.
bool sluice_find_header(const sluice_record* record, const char* name, sluice_header* header);

// Goes through the headers: `position` is 0 at the start. false after the last.
bool sluice_next_header(const sluice_record* record, size_t* position, sluice_header* header);

// The state that the call before left for this key; NULL where there is none yet. What this call
// sets does not change it.
sluice_bytes sluice_state(const sluice_call* call);
uint64_t sluice_state_version(const sluice_call* call);
// The key that the state belongs to; NULL without one.
sluice_bytes sluice_key(const sluice_call* call);

typedef struct sluice_window {
  uint64_t start_ms;  // since the epoch; 0 where the window goes by count
  uint64_t end_ms;
  uint64_t number;
} sluice_window;

// Whether the call belongs to a window.
bool sluice_in_window(const sluice_call* call, sluice_window* window);
// Whether it is the window's last: its result goes out and its state ends.
bool sluice_is_window_end(const sluice_call* call);

// By when the answer must be there, as CLOCK_REALTIME tells the time; the end of time where there
// is no deadline.
uint64_t sluice_deadline_ns(const sluice_call* call);
// How long that is from the start of the call.
uint32_t sluice_timeout_ms(const sluice_call* call);
// How long it still is, 0 when it has passed. Reads the clock, which is a system call in a sandbox.
uint32_t sluice_remaining_ms(const sluice_call* call);

// ---- The answer: without any of these it is a success with no result ----

#define SLUICE_WHOLE UINT32_MAX

// The result of a record, or of the call as SLUICE_WHOLE. Each may have one.
int sluice_result(sluice_call* call, uint32_t record, const void* data, size_t size);

// The call failed, and why; of what is said more than once the first counts. Nothing else of the
// answer counts then but its log. The formatted ones are cut at 1,023 bytes; what is not UTF-8 is
// replaced by '?'. Always returns 0.
int sluice_fail(sluice_call* call, const char* format, ...) SLUICE_PRINTF(2, 3);
int sluice_fail_bytes(sluice_call* call, const char* why, size_t size);

// A record failed, and why: it is tried again, the others are done. Once for a record; more is
// ignored.
int sluice_fail_record(sluice_call* call, uint32_t record, const char* format, ...)
    SLUICE_PRINTF(3, 4);
int sluice_fail_record_bytes(sluice_call* call, uint32_t record, const char* why, size_t size);

// The state for the next call with this key. Without it the state stays as it is.
int sluice_set_state(sluice_call* call, const void* data, size_t size);
// There is none for the next call. Of this and sluice_set_state the last counts.
int sluice_drop_state(sluice_call* call);

// A message to publish. What is NULL, 0 or empty is left out. The texts must be UTF-8; exchange,
// routing key and the headers' names have 255 bytes at most.
typedef struct sluice_output {
  sluice_bytes exchange;  // left out: the default exchange
  sluice_bytes routing_key;
  sluice_bytes body;
  sluice_bytes content_type;
  sluice_bytes content_encoding;
  sluice_bytes message_id;
  sluice_bytes correlation_id;
  sluice_bytes reply_to;
  sluice_bytes type;
  const sluice_header* headers;
  size_t header_count;
  uint64_t delay_ms;  // not before so many ms
} sluice_output;

int sluice_publish(sluice_call* call, const sluice_output* output);

static inline sluice_header sluice_header_text(const char* name, const char* value) {
  sluice_header header = {sluice_text(name), SLUICE_TEXT, sluice_text(value), 0, 0};
  return header;
}
static inline sluice_header sluice_header_bytes(const char* name, const void* data, size_t size) {
  sluice_header header = {sluice_text(name), SLUICE_BYTES, {(const char*)data, size}, 0, 0};
  return header;
}
static inline sluice_header sluice_header_integer(const char* name, int64_t value) {
  sluice_header header = {sluice_text(name), SLUICE_INTEGER, {NULL, 0}, value, 0};
  return header;
}
static inline sluice_header sluice_header_float(const char* name, double value) {
  sluice_header header = {sluice_text(name), SLUICE_FLOAT, {NULL, 0}, 0, value};
  return header;
}
static inline sluice_header sluice_header_boolean(const char* name, bool value) {
  sluice_header header = {sluice_text(name), SLUICE_BOOLEAN, {NULL, 0}, value, 0};
  return header;
}
static inline sluice_header sluice_header_time(const char* name, int64_t seconds) {
  sluice_header header = {sluice_text(name), SLUICE_TIME, {NULL, 0}, seconds, 0};
  return header;
}

typedef enum sluice_level {
  SLUICE_DEBUG = 0,
  SLUICE_INFO = 1,
  SLUICE_WARNING = 2,
  SLUICE_ERROR = 3,
} sluice_level;

// A line of the function's log. It travels with the answer, so it costs no system call. Beyond
// 16,384 lines or 1 MiB in a call they are dropped, and a last line says how many. Returns 0.
int sluice_log(sluice_call* call, sluice_level level, const char* format, ...) SLUICE_PRINTF(3, 4);
int sluice_log_bytes(sluice_call* call, sluice_level level, const char* line, size_t size);

// A place in the answer to go back to, for batches that are worked on record by record: sluice_undo
// takes back the results, failed records, outputs and state since the mark. Log lines stay, a
// failure of the call too. Marks of this call only, the latest first.
typedef struct sluice_mark {
  size_t used_;
  size_t state_;
  bool drop_;
  const char* problem_;
} sluice_mark;

sluice_mark sluice_mark_here(const sluice_call* call);
void sluice_undo(sluice_call* call, sluice_mark mark);

#ifdef __cplusplus
}
#endif

#endif
