#include <string.h>

#include "sdk/c/call.h"

// Messages to publish. Everything is checked and measured first, so that an output is in the answer
// as a whole or not at all.

struct property {
  uint8_t tag;
  const sluice_bytes* bytes;
};

enum { kProperties = 9 };

// In the order of their tags. The body always goes out; of the others those that are there.
static void list_properties(const sluice_output* output, struct property properties[kProperties]) {
  const struct property all[kProperties] = {
      {kTagBody, &output->body},
      {kTagExchange, &output->exchange},
      {kTagRoutingKey, &output->routing_key},
      {kTagContentType, &output->content_type},
      {kTagContentEncoding, &output->content_encoding},
      {kTagMessageId, &output->message_id},
      {kTagCorrelationId, &output->correlation_id},
      {kTagReplyTo, &output->reply_to},
      {kTagType, &output->type},
  };
  memcpy(properties, all, sizeof all);
}

static bool goes_out(const struct property* property) {
  return property->tag == kTagBody || property->bytes->size > 0;
}

static size_t value_bytes(const sluice_header* header) {
  switch (header->kind) {
    case SLUICE_NONE:
      return 0;
    case SLUICE_BOOLEAN:
      return 1;
    case SLUICE_INTEGER:
    case SLUICE_FLOAT:
    case SLUICE_TIME:
      return 8;
    default:
      return header->bytes.size;
  }
}

static bool is_text(sluice_bytes bytes) {
  return bytes.size == 0 || sluice_is_utf8_(bytes.data, bytes.size);
}

static const char* check_header(const sluice_header* header) {
  if (header->name.size > kNameBytesMax) return "a header's name is longer than 255 bytes";
  if (!is_text(header->name)) return "a header's name is not UTF-8";
  if (header->kind < SLUICE_NONE || header->kind > SLUICE_TABLE) {
    return "a header has a kind that there is not";
  }
  if (value_bytes(header) > kAnswerBytesMax) return "the answer is too long";
  if (header->kind == SLUICE_TEXT && !is_text(header->bytes)) return "a header's text is not UTF-8";
  return NULL;
}

static const char* check(const sluice_output* output, const struct property* properties) {
  if (output->exchange.size > kNameBytesMax) return "an exchange is longer than 255 bytes";
  if (output->routing_key.size > kNameBytesMax) return "a routing key is longer than 255 bytes";
  for (size_t i = 0; i < kProperties; i++) {
    const sluice_bytes* const bytes = properties[i].bytes;
    if (bytes->size > kAnswerBytesMax) return "the answer is too long";
    if (properties[i].tag != kTagBody && !is_text(*bytes)) {
      return "an output's property is not UTF-8";
    }
  }
  for (size_t i = 0; i < output->header_count; i++) {
    const char* const problem = check_header(&output->headers[i]);
    if (problem != NULL) return problem;
  }
  return NULL;
}

static size_t measure(const sluice_output* output, const struct property* properties) {
  size_t size = output->delay_ms > 0 ? kItemHeaderBytes + 8 : 0;
  for (size_t i = 0; i < kProperties; i++) {
    if (goes_out(&properties[i])) size += kItemHeaderBytes + properties[i].bytes->size;
  }
  // Each summand is below 2^31, so 2^32 of them would be needed to wrap.
  for (size_t i = 0; i < output->header_count; i++) {
    const sluice_header* const header = &output->headers[i];
    size += kItemHeaderBytes + 3 + header->name.size + value_bytes(header);
  }
  return size;
}

static uint8_t* put(uint8_t* at, const void* data, size_t size) {
  if (size > 0) memcpy(at, data, size);
  return at + size;
}

static uint8_t* put_item(uint8_t* at, uint8_t tag, size_t size) {
  at[0] = tag;
  store_u32(at + 1, (uint32_t)size);
  return at + kItemHeaderBytes;
}

static uint8_t* put_header(uint8_t* at, const sluice_header* header) {
  const size_t size = value_bytes(header);
  at = put_item(at, kTagHeader, 3 + header->name.size + size);
  at[0] = (uint8_t)header->kind;
  store_u16(at + 1, (uint32_t)header->name.size);
  at = put(at + 3, header->name.data, header->name.size);
  uint64_t bits = (uint64_t)header->integer;
  switch (header->kind) {
    case SLUICE_BOOLEAN:
      at[0] = header->integer != 0;
      break;
    case SLUICE_FLOAT:
      memcpy(&bits, &header->number, sizeof bits);
      store_u64(at, bits);
      break;
    case SLUICE_INTEGER:
    case SLUICE_TIME:
      store_u64(at, bits);
      break;
    default:
      put(at, header->bytes.data, size);
  }
  return at + size;
}

int sluice_publish(sluice_call* call, const sluice_output* output) {
  struct property properties[kProperties];
  list_properties(output, properties);
  const char* const problem = check(output, properties);
  if (problem != NULL) return sluice_set_problem_(call, problem);
  uint8_t* at = sluice_append_(call, kTagOutput, measure(output, properties));
  if (at == NULL) return -1;
  for (size_t i = 0; i < kProperties; i++) {
    if (!goes_out(&properties[i])) continue;
    at = put_item(at, properties[i].tag, properties[i].bytes->size);
    at = put(at, properties[i].bytes->data, properties[i].bytes->size);
  }
  for (size_t i = 0; i < output->header_count; i++) at = put_header(at, &output->headers[i]);
  if (output->delay_ms > 0) {
    at = put_item(at, kTagDelayMs, 8);
    store_u64(at, output->delay_ms);
  }
  return 0;
}
