#include <stdlib.h>
#include <string.h>

#include "sdk/c/call.h"

bool sluice_grow_(struct buffer* buffer, size_t bytes, size_t keep) {
  if (bytes <= buffer->capacity) return true;
  uint8_t* data = realloc(buffer->from_heap ? buffer->data : NULL, bytes);
  if (data == NULL) return false;
  if (!buffer->from_heap && keep > 0) memcpy(data, buffer->data, keep);
  buffer->data = data;
  buffer->capacity = bytes;
  buffer->from_heap = true;
  return true;
}
