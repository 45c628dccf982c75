#ifndef SLUICE_SDK_CALL_H
#define SLUICE_SDK_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sdk/c/limits.h"
#include "sdk/include/sluice.h"

// What the parts of the library share; not for its users. There is one sluice_call in a process,
// and it is what a snapshot holds. Everything that a small call writes to lies on few pages.

enum {
  kVersion = 1,
  kInvocationHeaderBytes = 24,  // with the length field
  kAnswerHeaderBytes = 8,
  kRecordHeaderBytes = 24,
  kItemHeaderBytes = 5,
  kFlagWindowEnd = 1,
  kFlagDropState = 1,
  kFlagRedelivered = 1,
};

enum {
  kTagState = 1,
  kTagStateVersion = 2,
  kTagKey = 3,
  kTagWindow = 4,
  kTagRecord = 5,
  kTagBody = 16,
  kTagExchange = 17,
  kTagRoutingKey = 18,
  kTagContentType = 19,
  kTagContentEncoding = 20,
  kTagMessageId = 21,
  kTagCorrelationId = 22,
  kTagReplyTo = 23,
  kTagType = 24,
  kTagHeader = 25,
  kTagFailure = 32,
  kTagFailed = 33,
  kTagNewState = 34,
  kTagResult = 35,
  kTagOutput = 36,
  kTagLog = 37,
  kTagDelayMs = 38,
  kTagTakenBack = 0,  // an item that is left out when the answer is sent
};

// Bits of an index entry beside the record's offset.
#define RECORD_FAILED (1u << 31)
#define RECORD_HAS_RESULT (1u << 30)
#define RECORD_OFFSET (RECORD_HAS_RESULT - 1)

struct buffer {
  uint8_t* data;
  size_t capacity;
  bool from_heap;
};

struct sluice_call {
  // The invocation. The frame with its length field is at the start of `in`; what follows it
  // belongs to the next one.
  struct buffer in;
  size_t in_used;
  size_t frame_bytes;
  uint64_t deadline_ns;
  uint32_t timeout_ms;
  uint16_t flags;
  bool in_window;
  sluice_bytes state;
  sluice_bytes key;
  uint64_t state_version;
  sluice_window window;
  uint32_t record_count;
  uint32_t index_capacity;
  uint32_t* index;  // where each record lies in the frame, and the bits above
  uint32_t first_index[kRecordsFirst];

  // The answer: a header's room, then items in the order they were given. Two of them where they
  // have to be put in the protocol's order.
  struct buffer out;
  struct buffer arranged;
  size_t out_used;
  size_t state_at;  // offset of the item with the new state, 0: none
  uint32_t items;
  uint32_t log_lines;
  uint32_t logs_dropped;
  size_t log_bytes;
  uint8_t last_tag;
  bool out_of_order;
  bool drop_state;
  bool whole_result;
  bool failed;          // sluice_fail was called
  const char* problem;  // why the answer can not be what was asked for; NULL: it can
};

static inline uint16_t load_u16(const uint8_t* at) {
  return (uint16_t)(at[0] | (uint16_t)(at[1] << 8));
}
static inline uint32_t load_u32(const uint8_t* at) {
  return (uint32_t)load_u16(at) | (uint32_t)load_u16(at + 2) << 16;
}
static inline uint64_t load_u64(const uint8_t* at) {
  return (uint64_t)load_u32(at) | (uint64_t)load_u32(at + 4) << 32;
}
static inline void store_u16(uint8_t* at, uint32_t value) {
  at[0] = (uint8_t)value;
  at[1] = (uint8_t)(value >> 8);
}
static inline void store_u32(uint8_t* at, uint32_t value) {
  store_u16(at, value);
  store_u16(at + 2, value >> 16);
}
static inline void store_u64(uint8_t* at, uint64_t value) {
  store_u32(at, (uint32_t)value);
  store_u32(at + 4, (uint32_t)(value >> 32));
}

// ---- buffer.c ----

// Makes room for `bytes` in all; keeps the first `keep`. false without memory, nothing changed
// then.
bool sluice_grow_(struct buffer* buffer, size_t bytes, size_t keep);

// ---- invocation.c ----

// Checks the frame of call->frame_bytes at the start of call->in down to the last header, and sets
// what the accessors give. NULL, or what is wrong with it. After NULL no accessor can fail.
const char* sluice_parse_(sluice_call* call);

struct item {
  uint8_t tag;
  uint32_t size;
  const uint8_t* content;
};
// Cuts the next item off [*at, end): 1, 0 at the end, -1 where it does not fit.
int sluice_next_item_(const uint8_t** at, const uint8_t* end, struct item* item);

// ---- answer.c ----

void sluice_clear_answer_(sluice_call* call);
// Adds an item with room for `size` bytes; NULL where that can not be, the problem is set then.
uint8_t* sluice_append_(sluice_call* call, uint8_t tag, size_t size);
// The answer becomes a failure for this reason, unless there is one before it. Returns -1.
int sluice_set_problem_(sluice_call* call, const char* problem);
// Puts the items in order, and the header before them. Returns the frame, whose size is *size.
const uint8_t* sluice_finish_answer_(sluice_call* call, size_t* size);

// ---- stream.c ----

// What sluice_error() says from now on; borrowed for good.
void sluice_set_error_(const char* sentence);

// ---- text.c ----

bool sluice_is_utf8_(const char* text, size_t size);
// Replaces what is not UTF-8 by '?', in place.
void sluice_make_utf8_(char* text, size_t size);

// ---- local.c: outside Sluice ----

// Reads stdin into the frame of a call with one record. NULL, or what went wrong.
const char* sluice_local_invocation_(sluice_call* call);
// Shows an answer to a person. NULL, or what went wrong; *failed tells whether the call did.
const char* sluice_local_answer_(const uint8_t* frame, size_t size, bool* failed);

#endif
