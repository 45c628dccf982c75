#include <string.h>
#include <time.h>

#include "sdk/c/call.h"

// Reads invocations. sluice_parse_ checks a frame as a whole, so that what comes after it can take
// each length as it is.

int sluice_next_item_(const uint8_t** at, const uint8_t* end, struct item* item) {
  const size_t left = (size_t)(end - *at);
  if (left == 0) return 0;
  if (left < kItemHeaderBytes) return -1;
  item->tag = (*at)[0];
  item->size = load_u32(*at + 1);
  item->content = *at + kItemHeaderBytes;
  if (item->size > left - kItemHeaderBytes) return -1;
  *at = item->content + item->size;
  return 1;
}

static sluice_bytes as_bytes(const uint8_t* data, size_t size) {
  sluice_bytes bytes = {(const char*)data, size};
  return bytes;
}

// What a value of this kind has at least; more is a later version's.
static size_t value_bytes_min(int kind) {
  switch (kind) {
    case SLUICE_INTEGER:
    case SLUICE_FLOAT:
    case SLUICE_TIME:
      return 8;
    case SLUICE_BOOLEAN:
      return 1;
    default:
      return 0;
  }
}

static bool read_header(const struct item* item, sluice_header* header) {
  if (item->size < 3) return false;
  const size_t name_size = load_u16(item->content + 1);
  if (name_size > item->size - 3) return false;
  const uint8_t* const value = item->content + 3 + name_size;
  const size_t value_size = item->size - 3 - name_size;
  memset(header, 0, sizeof *header);
  header->name = as_bytes(item->content + 3, name_size);
  header->kind = item->content[0];
  header->bytes = as_bytes(value, value_size);
  if (value_size < value_bytes_min(header->kind)) return false;
  if (header->kind == SLUICE_INTEGER || header->kind == SLUICE_TIME) {
    header->integer = (int64_t)load_u64(value);
  } else if (header->kind == SLUICE_BOOLEAN) {
    header->integer = value[0] != 0;
  } else if (header->kind == SLUICE_FLOAT) {
    const uint64_t bits = load_u64(value);
    memcpy(&header->number, &bits, sizeof bits);
  }
  return true;
}

static sluice_bytes* property_of(sluice_record* record, uint8_t tag) {
  switch (tag) {
    case kTagBody:
      return &record->body;
    case kTagExchange:
      return &record->exchange;
    case kTagRoutingKey:
      return &record->routing_key;
    case kTagContentType:
      return &record->content_type;
    case kTagContentEncoding:
      return &record->content_encoding;
    case kTagMessageId:
      return &record->message_id;
    case kTagCorrelationId:
      return &record->correlation_id;
    case kTagReplyTo:
      return &record->reply_to;
    case kTagType:
      return &record->type;
    default:
      return NULL;
  }
}

// false where the record's header or its items do not fit. Headers are not looked into.
static bool read_record(const uint8_t* data, size_t size, sluice_record* record) {
  memset(record, 0, sizeof *record);
  if (size < kRecordHeaderBytes) return false;
  record->id = load_u64(data);
  record->published_ms = load_u64(data + 8);
  record->attempt = load_u32(data + 16);
  record->redelivered = (load_u32(data + 20) & kFlagRedelivered) != 0;
  const uint8_t* at = data + kRecordHeaderBytes;
  const uint8_t* const end = data + size;
  record->items_ = as_bytes(at, (size_t)(end - at));
  record->body = as_bytes(at, 0);  // a message always has one
  struct item item;
  int more;
  while ((more = sluice_next_item_(&at, end, &item)) > 0) {
    sluice_bytes* const property = property_of(record, item.tag);
    if (property != NULL) *property = as_bytes(item.content, item.size);
  }
  return more == 0;
}

static const char* check_record(const struct item* item) {
  sluice_record record;
  if (!read_record(item->content, item->size, &record)) return "a record's items do not fit it";
  const uint8_t* at = item->content + kRecordHeaderBytes;
  const uint8_t* const end = item->content + item->size;
  struct item inner;
  sluice_header header;
  while (sluice_next_item_(&at, end, &inner) > 0) {
    if (inner.tag == kTagHeader && !read_header(&inner, &header)) return "a header does not fit";
  }
  return NULL;
}

static const char* index_record(sluice_call* call, uint32_t number, const struct item* item) {
  if (number >= call->record_count) return "there are more records than it says";
  const char* const problem = check_record(item);
  if (problem != NULL) return problem;
  call->index[number] = (uint32_t)(item->content - call->in.data);
  return NULL;
}

static const char* parse_fixed(sluice_call* call, const struct item* item) {
  const size_t bytes_min = item->tag == kTagWindow ? 24 : 8;
  if (item->size < bytes_min) return "a fixed item is too short";
  if (item->tag == kTagStateVersion) {
    call->state_version = load_u64(item->content);
  } else {
    call->in_window = true;
    call->window.start_ms = load_u64(item->content);
    call->window.end_ms = load_u64(item->content + 8);
    call->window.number = load_u64(item->content + 16);
  }
  return NULL;
}

static const char* make_index(sluice_call* call) {
  // A record takes more room in the frame than in the index, so the frame bounds what is asked for.
  if (call->record_count > call->frame_bytes / (kItemHeaderBytes + kRecordHeaderBytes)) {
    return "there are fewer records than it says";
  }
  if (call->record_count <= call->index_capacity) return NULL;
  struct buffer index = {(uint8_t*)call->index, call->index_capacity * sizeof(uint32_t),
                         call->index != call->first_index};
  if (!sluice_grow_(&index, call->record_count * sizeof(uint32_t), 0)) {
    return "there is no memory for so many records";
  }
  call->index = (uint32_t*)(void*)index.data;
  call->index_capacity = call->record_count;
  return NULL;
}

static void clear_invocation(sluice_call* call) {
  const sluice_bytes absent = {NULL, 0};
  const sluice_window no_window = {0, 0, 0};
  call->state = absent;
  call->key = absent;
  call->state_version = 0;
  call->in_window = false;
  call->window = no_window;
  call->record_count = 0;
}

const char* sluice_parse_(sluice_call* call) {
  clear_invocation(call);
  const uint8_t* at = call->in.data;
  const uint8_t* const end = at + call->frame_bytes;
  if (call->frame_bytes < kInvocationHeaderBytes) return "it is too short";
  if (load_u16(at + 4) != kVersion) return "its version is not known here";
  call->flags = load_u16(at + 6);
  call->deadline_ns = load_u64(at + 8);
  call->timeout_ms = load_u32(at + 16);
  call->record_count = load_u32(at + 20);
  const uint32_t expected = call->record_count;
  if (expected == 0 && !sluice_is_window_end(call)) return "it has no records";
  const char* problem = make_index(call);
  at += kInvocationHeaderBytes;
  uint32_t found = 0;
  struct item item;
  int more = 0;
  while (problem == NULL && (more = sluice_next_item_(&at, end, &item)) > 0) {
    switch (item.tag) {
      case kTagState:
        call->state = as_bytes(item.content, item.size);
        break;
      case kTagKey:
        call->key = as_bytes(item.content, item.size);
        break;
      case kTagStateVersion:
      case kTagWindow:
        problem = parse_fixed(call, &item);
        break;
      case kTagRecord:
        problem = index_record(call, found++, &item);
        break;
      default:
        break;  // a later version's
    }
  }
  if (problem == NULL && more < 0) problem = "its items do not fit it";
  if (problem == NULL && found != expected) problem = "there are fewer records than it says";
  if (problem != NULL) call->record_count = 0;
  return problem;
}

uint32_t sluice_record_count(const sluice_call* call) { return call->record_count; }

sluice_record sluice_record_at(const sluice_call* call, uint32_t index) {
  sluice_record record;
  memset(&record, 0, sizeof record);
  if (index >= call->record_count) return record;
  const uint8_t* const content = call->in.data + (call->index[index] & RECORD_OFFSET);
  // The item's length lies before its content.
  read_record(content, load_u32(content - 4), &record);
  return record;
}

bool sluice_next_header(const sluice_record* record, size_t* position, sluice_header* header) {
  if (record->items_.data == NULL || *position > record->items_.size) return false;
  const uint8_t* const start = (const uint8_t*)record->items_.data;
  const uint8_t* at = start + *position;
  struct item item;
  while (sluice_next_item_(&at, start + record->items_.size, &item) > 0) {
    *position = (size_t)(at - start);
    if (item.tag == kTagHeader) return read_header(&item, header);
  }
  return false;
}

bool sluice_find_header(const sluice_record* record, const char* name, sluice_header* header) {
  const size_t size = strlen(name);
  size_t position = 0;
  while (sluice_next_header(record, &position, header)) {
    if (header->name.size == size && memcmp(header->name.data, name, size) == 0) return true;
  }
  return false;
}

sluice_bytes sluice_state(const sluice_call* call) { return call->state; }

uint64_t sluice_state_version(const sluice_call* call) { return call->state_version; }

sluice_bytes sluice_key(const sluice_call* call) { return call->key; }

bool sluice_in_window(const sluice_call* call, sluice_window* window) {
  if (call->in_window) *window = call->window;
  return call->in_window;
}

bool sluice_is_window_end(const sluice_call* call) { return (call->flags & kFlagWindowEnd) != 0; }

uint64_t sluice_deadline_ns(const sluice_call* call) { return call->deadline_ns; }

uint32_t sluice_timeout_ms(const sluice_call* call) { return call->timeout_ms; }

uint32_t sluice_remaining_ms(const sluice_call* call) {
  struct timespec now;
  if (call->deadline_ns == UINT64_MAX || clock_gettime(CLOCK_REALTIME, &now) != 0) {
    return call->timeout_ms;
  }
  const uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  if (now_ns >= call->deadline_ns) return 0;
  const uint64_t remaining_ms = (call->deadline_ns - now_ns) / 1000000u;
  return remaining_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)remaining_ms;
}
