// The conformance program in C; describe.md tells what it does.
#include <inttypes.h>
#include <sluice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char* text;
static size_t text_size;
static FILE* out;

static uint32_t crc32_of(sluice_bytes bytes) {
  static uint32_t table[256];
  if (table[1] == 0) {
    for (uint32_t i = 0; i < 256; i++) {
      table[i] = i;
      for (int k = 0; k < 8; k++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
  }
  uint32_t crc = ~0u;
  for (size_t i = 0; i < bytes.size; i++) {
    crc = crc >> 8 ^ table[(crc ^ (uint8_t)bytes.data[i]) & 255];
  }
  return ~crc;
}

static void blob(const char* name, sluice_bytes bytes, const char* end) {
  fprintf(out, "%s ", name);
  if (bytes.data == NULL) {
    fputc('-', out);
  } else if (bytes.size > 64) {
    fprintf(out, "%zu#%08x", bytes.size, crc32_of(bytes));
  } else {
    fputc('x', out);
    for (size_t i = 0; i < bytes.size; i++) fprintf(out, "%02x", (uint8_t)bytes.data[i]);
  }
  fputs(end, out);
}

static void describe_header(const sluice_header* header) {
  blob("header", header->name, " ");
  uint64_t bits;
  memcpy(&bits, &header->number, sizeof bits);
  switch (header->kind) {
    case SLUICE_NONE:
      fputs("none\n", out);
      break;
    case SLUICE_TEXT:
      blob("text", header->bytes, "\n");
      break;
    case SLUICE_BYTES:
      blob("bytes", header->bytes, "\n");
      break;
    case SLUICE_INTEGER:
      fprintf(out, "integer %" PRId64 "\n", header->integer);
      break;
    case SLUICE_FLOAT:
      fprintf(out, "float %016" PRIx64 "\n", bits);
      break;
    case SLUICE_BOOLEAN:
      fprintf(out, "boolean %" PRId64 "\n", header->integer);
      break;
    case SLUICE_TIME:
      fprintf(out, "time %" PRId64 "\n", header->integer);
      break;
    case SLUICE_TABLE:
      blob("table", header->bytes, "\n");
      break;
    default:
      blob("other", header->bytes, "\n");
  }
}

static sluice_bytes present(sluice_bytes bytes) {
  return bytes.data == NULL ? sluice_text("") : bytes;
}

static void describe_record(const sluice_record* record) {
  fprintf(out, "record %" PRIu64 " %" PRIu64 " %" PRIu32 " %d\n", record->id, record->published_ms,
          record->attempt, record->redelivered);
  blob("body", record->body, "\n");
  blob("exchange", present(record->exchange), "\n");
  blob("routing_key", present(record->routing_key), "\n");
  blob("content_type", record->content_type, "\n");
  blob("content_encoding", record->content_encoding, "\n");
  blob("message_id", record->message_id, "\n");
  blob("correlation_id", record->correlation_id, "\n");
  blob("reply_to", record->reply_to, "\n");
  blob("type", record->type, "\n");
  sluice_header header;
  for (size_t position = 0; sluice_next_header(record, &position, &header);) {
    describe_header(&header);
  }
}

static void describe(const sluice_call* call) {
  rewind(out);
  fprintf(out, "call %d %" PRIu64 " %" PRIu32 " %" PRIu32 "\n", sluice_is_window_end(call),
          sluice_deadline_ns(call), sluice_timeout_ms(call), sluice_record_count(call));
  blob("state", sluice_state(call), "\n");
  fprintf(out, "state_version %" PRIu64 "\n", sluice_state_version(call));
  blob("key", sluice_key(call), "\n");
  sluice_window window;
  if (sluice_in_window(call, &window)) {
    fprintf(out, "window %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", window.start_ms, window.end_ms,
            window.number);
  } else {
    fputs("window -\n", out);
  }
  for (uint32_t i = 0; i < sluice_record_count(call); i++) {
    const sluice_record record = sluice_record_at(call, i);
    describe_record(&record);
  }
  fflush(out);
}

static int64_t integer_of(const sluice_record* record, const char* name) {
  sluice_header header;
  return sluice_find_header(record, name, &header) ? header.integer : 0;
}

static void publish(sluice_call* call, const sluice_record* record) {
  sluice_header headers[64];
  size_t count = 0;
  size_t position = 0;
  while (count < 64 && sluice_next_header(record, &position, &headers[count])) count++;
  const sluice_output output = {
      .exchange = record->exchange,
      .routing_key = record->routing_key,
      .body = record->body,
      .content_type = record->content_type,
      .content_encoding = record->content_encoding,
      .message_id = record->message_id,
      .correlation_id = record->correlation_id,
      .reply_to = record->reply_to,
      .type = record->type,
      .headers = headers,
      .header_count = count,
      .delay_ms = (uint64_t)integer_of(record, "delay"),
  };
  sluice_publish(call, &output);
}

static void give_big_result(sluice_call* call, uint32_t index, size_t size) {
  char* const data = malloc(size);
  memset(data, 'x', size);
  sluice_result(call, index, data, size);
  free(data);
}

static int act(sluice_call* call, uint32_t i, const sluice_record* record, const char* what) {
  const sluice_bytes body = record->body;
  if (strcmp(what, "throw") == 0) return 7;
  if (strcmp(what, "fail") == 0) sluice_fail_record_bytes(call, i, body.data, body.size);
  if (strcmp(what, "fail-call") == 0) sluice_fail(call, "%.*s", (int)body.size, body.data);
  if (strcmp(what, "result") == 0) sluice_result(call, i, body.data, body.size);
  if (strcmp(what, "state") == 0) sluice_set_state(call, body.data, body.size);
  if (strcmp(what, "drop") == 0) sluice_drop_state(call);
  if (strcmp(what, "output") == 0) publish(call, record);
  if (strcmp(what, "log") == 0) {
    sluice_log_bytes(call, (sluice_level)integer_of(record, "level"), body.data, body.size);
  }
  if (strcmp(what, "big") == 0) give_big_result(call, i, (size_t)integer_of(record, "size"));
  if (strcmp(what, "misuse") == 0) sluice_result(call, sluice_record_count(call), "x", 1);
  if (strcmp(what, "print") == 0) printf("%.*s", (int)body.size, body.data);
  return 0;
}

static int handle(sluice_call* call, void* context) {
  (void)context;
  for (uint32_t i = 0; i < sluice_record_count(call); i++) {
    const sluice_record record = sluice_record_at(call, i);
    sluice_header header;
    if (!sluice_find_header(&record, "do", &header) || header.kind != SLUICE_TEXT) continue;
    char what[32];
    snprintf(what, sizeof what, "%.*s", (int)header.bytes.size, header.bytes.data);
    if (act(call, i, &record, what) != 0) return 7;
  }
  describe(call);
  return sluice_result(call, SLUICE_WHOLE, text, (size_t)ftell(out));
}

int main(void) {
  out = open_memstream(&text, &text_size);
  return sluice_run(handle, NULL);
}
