#include <stdio.h>
#include <string.h>

#include "sdk/c/call.h"

// Builds answers. Items gather in the order they are given; where that is not the protocol's they
// are put in order once, when the answer is sent.

int sluice_set_problem_(sluice_call* call, const char* problem) {
  sluice_set_error_(problem);
  if (call->problem == NULL) call->problem = problem;
  return -1;
}

static bool has_room(sluice_call* call, size_t size) {
  if (size > (size_t)kAnswerBytesMax - call->out_used) {
    sluice_set_problem_(call, "the answer is too long");
    return false;
  }
  const size_t needed = call->out_used + size;
  if (needed <= call->out.capacity) return true;
  if (sluice_grow_(&call->out, needed + needed / 2, call->out_used) ||
      sluice_grow_(&call->out, needed, call->out_used)) {
    return true;
  }
  sluice_set_problem_(call, "there is no memory for the answer");
  return false;
}

uint8_t* sluice_append_(sluice_call* call, uint8_t tag, size_t size) {
  // Where a failure is, only the log stays, which has a limit of its own.
  if (call->items >= kAnswerItemsMax && tag != kTagFailure) {
    sluice_set_problem_(call, "the answer has too many items");
    return NULL;
  }
  // Each of the two is far below where their sum could wrap.
  if (size > kAnswerBytesMax || !has_room(call, kItemHeaderBytes + size)) {
    sluice_set_problem_(call, "the answer is too long");
    return NULL;
  }
  uint8_t* const at = call->out.data + call->out_used;
  at[0] = tag;
  store_u32(at + 1, (uint32_t)size);
  call->out_used += kItemHeaderBytes + size;
  call->items++;
  if (tag < call->last_tag) call->out_of_order = true;
  call->last_tag = tag;
  return at + kItemHeaderBytes;
}

static uint8_t* put(uint8_t* at, const void* data, size_t size) {
  if (size > 0) memcpy(at, data, size);
  return at + size;
}

void sluice_clear_answer_(sluice_call* call) {
  call->out_used = kAnswerHeaderBytes;
  call->state_at = 0;
  call->items = 0;
  call->log_lines = 0;
  call->logs_dropped = 0;
  call->log_bytes = 0;
  call->last_tag = 0;
  call->out_of_order = false;
  call->drop_state = false;
  call->whole_result = false;
  call->failed = false;
  call->problem = NULL;
}

int sluice_result(sluice_call* call, uint32_t record, const void* data, size_t size) {
  if (record != SLUICE_WHOLE && record >= call->record_count) {
    return sluice_set_problem_(call, "a result names a record that there is not");
  }
  if (record == SLUICE_WHOLE ? call->whole_result
                             : (call->index[record] & RECORD_HAS_RESULT) != 0) {
    return sluice_set_problem_(call, "a second result was given where there is one already");
  }
  if (size > kAnswerBytesMax) return sluice_set_problem_(call, "the answer is too long");
  uint8_t* const at = sluice_append_(call, kTagResult, 4 + size);
  if (at == NULL) return -1;
  store_u32(at, record);
  put(at + 4, data, size);
  if (record == SLUICE_WHOLE) {
    call->whole_result = true;
  } else {
    call->index[record] |= RECORD_HAS_RESULT;
  }
  return 0;
}

int sluice_fail_bytes(sluice_call* call, const char* why, size_t size) {
  if (call->failed) return 0;
  uint8_t* const at = sluice_append_(call, kTagFailure, size);
  if (at == NULL) return 0;  // then the problem is why it fails
  call->failed = true;
  put(at, why, size);
  sluice_make_utf8_((char*)at, size);
  return 0;
}

int sluice_fail_record_bytes(sluice_call* call, uint32_t record, const char* why, size_t size) {
  if (record >= call->record_count) {
    return sluice_set_problem_(call, "a failure names a record that there is not");
  }
  if ((call->index[record] & RECORD_FAILED) != 0) return 0;
  if (size > kAnswerBytesMax) return sluice_set_problem_(call, "the answer is too long");
  uint8_t* const at = sluice_append_(call, kTagFailed, 4 + size);
  if (at == NULL) return -1;
  store_u32(at, record);
  put(at + 4, why, size);
  sluice_make_utf8_((char*)at + 4, size);
  call->index[record] |= RECORD_FAILED;
  return 0;
}

static void take_back(sluice_call* call, size_t item_at) {
  call->out.data[item_at] = kTagTakenBack;
  call->items--;
  call->out_of_order = true;
}

int sluice_set_state(sluice_call* call, const void* data, size_t size) {
  const size_t item_at = call->out_used;
  uint8_t* const at = sluice_append_(call, kTagNewState, size);
  if (at == NULL) return -1;
  put(at, data, size);
  if (call->state_at != 0) take_back(call, call->state_at);
  call->state_at = item_at;
  call->drop_state = false;
  return 0;
}

int sluice_drop_state(sluice_call* call) {
  if (call->state_at != 0) take_back(call, call->state_at);
  call->state_at = 0;
  call->drop_state = true;
  return 0;
}

int sluice_log_bytes(sluice_call* call, sluice_level level, const char* line, size_t size) {
  if (call->log_lines >= kLogLinesMax || size > kLogBytesMax - call->log_bytes) {
    call->logs_dropped++;
    return 0;
  }
  const char* const problem = call->problem;
  uint8_t* const at = sluice_append_(call, kTagLog, 1 + size);
  if (at == NULL) {
    call->problem = problem;  // a log line is never why a call fails
    call->logs_dropped++;
    return 0;
  }
  at[0] = (uint8_t)((unsigned)level > SLUICE_ERROR ? SLUICE_ERROR : level);
  put(at + 1, line, size);
  sluice_make_utf8_((char*)at + 1, size);
  call->log_lines++;
  call->log_bytes += size;
  return 0;
}

static size_t format_into(char text[kFormattedBytesMax], const char* format, va_list values)
    SLUICE_PRINTF(2, 0);

static size_t format_into(char text[kFormattedBytesMax], const char* format, va_list values) {
  const int size = vsnprintf(text, kFormattedBytesMax, format, values);
  if (size < 0) return 0;
  return size < kFormattedBytesMax ? (size_t)size : kFormattedBytesMax - 1;
}

int sluice_fail(sluice_call* call, const char* format, ...) {
  char text[kFormattedBytesMax];
  va_list values;
  va_start(values, format);
  const size_t size = format_into(text, format, values);
  va_end(values);
  return sluice_fail_bytes(call, text, size);
}

int sluice_fail_record(sluice_call* call, uint32_t record, const char* format, ...) {
  char text[kFormattedBytesMax];
  va_list values;
  va_start(values, format);
  const size_t size = format_into(text, format, values);
  va_end(values);
  return sluice_fail_record_bytes(call, record, text, size);
}

int sluice_log(sluice_call* call, sluice_level level, const char* format, ...) {
  char text[kFormattedBytesMax];
  va_list values;
  va_start(values, format);
  const size_t size = format_into(text, format, values);
  va_end(values);
  return sluice_log_bytes(call, level, text, size);
}

sluice_mark sluice_mark_here(const sluice_call* call) {
  const sluice_mark mark = {call->out_used, call->state_at, call->drop_state, call->problem};
  return mark;
}

void sluice_undo(sluice_call* call, sluice_mark mark) {
  if (mark.used_ < kAnswerHeaderBytes || mark.used_ > call->out_used) return;
  const uint8_t* at = call->out.data + mark.used_;
  const uint8_t* const end = call->out.data + call->out_used;
  struct item item;
  while (sluice_next_item_(&at, end, &item) > 0) {
    if (item.tag == kTagLog || item.tag == kTagFailure || item.tag == kTagTakenBack) continue;
    if (item.tag == kTagFailed) call->index[load_u32(item.content)] &= ~RECORD_FAILED;
    if (item.tag == kTagResult) {
      const uint32_t record = load_u32(item.content);
      if (record == SLUICE_WHOLE) {
        call->whole_result = false;
      } else {
        call->index[record] &= ~RECORD_HAS_RESULT;
      }
    }
    take_back(call, (size_t)(item.content - call->out.data) - kItemHeaderBytes);
  }
  if (mark.state_ != 0 && call->out.data[mark.state_] == kTagTakenBack) {
    call->out.data[mark.state_] = kTagNewState;
    call->items++;
  }
  call->state_at = mark.state_;
  call->drop_state = mark.drop_;
  call->problem = mark.problem_;
}

// Copies the items that count to call->arranged, in one pass for each tag there can be.
static bool arrange(sluice_call* call) {
  if (!sluice_grow_(&call->arranged, call->out_used, 0)) return false;
  const uint8_t* const start = call->out.data + kAnswerHeaderBytes;
  const uint8_t* const end = call->out.data + call->out_used;
  uint8_t* to = call->arranged.data + kAnswerHeaderBytes;
  for (uint8_t tag = kTagFailure; tag <= kTagLog; tag++) {
    if (call->failed && tag != kTagFailure && tag != kTagLog) continue;
    const uint8_t* at = start;
    struct item item;
    while (sluice_next_item_(&at, end, &item) > 0) {
      if (item.tag == tag) {
        to = put(to, item.content - kItemHeaderBytes, kItemHeaderBytes + (size_t)item.size);
      }
    }
  }
  call->out_used = (size_t)(to - call->arranged.data);
  const struct buffer arranged = call->arranged;
  call->arranged = call->out;
  call->out = arranged;
  return true;
}

const uint8_t* sluice_finish_answer_(sluice_call* call, size_t* size) {
  if (call->logs_dropped > 0) {
    call->log_lines = 0;
    call->log_bytes = 0;
    sluice_log(call, SLUICE_WARNING, "%u more log lines were dropped", call->logs_dropped);
  }
  // What could not be built must not be taken for a success. The reason alone fits any buffer.
  if (call->problem != NULL && !call->failed) {
    const char* const problem = call->problem;
    sluice_fail_bytes(call, problem, strlen(problem));
    if (!call->failed) {
      sluice_clear_answer_(call);
      sluice_fail_bytes(call, problem, strlen(problem));
    }
  }
  if (call->failed) call->drop_state = false;
  if ((call->out_of_order || call->failed) && !arrange(call)) {
    sluice_clear_answer_(call);
    sluice_fail(call, "there is no memory for the answer");
  }
  store_u32(call->out.data, (uint32_t)(call->out_used - 4));
  store_u16(call->out.data + 4, kVersion);
  store_u16(call->out.data + 6, call->drop_state ? kFlagDropState : 0);
  *size = call->out_used;
  return call->out.data;
}
