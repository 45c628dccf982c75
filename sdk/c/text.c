#include "sdk/c/call.h"

// How long the UTF-8 sequence at `at` is, by RFC 3629; 0 where there is none.
static size_t sequence_at(const uint8_t* at, const uint8_t* end) {
  const uint8_t first = at[0];
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || (size_t)(end - at) < size) return 0;
  // The second byte rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (at[1] < low || at[1] > high) return 0;
  for (size_t i = 2; i < size; i++) {
    if ((at[i] & 0xc0) != 0x80) return 0;
  }
  return size;
}

bool sluice_is_utf8_(const char* text, size_t size) {
  const uint8_t* at = (const uint8_t*)text;
  const uint8_t* const end = at + size;
  while (at < end) {
    const size_t sequence = sequence_at(at, end);
    if (sequence == 0) return false;
    at += sequence;
  }
  return true;
}

void sluice_make_utf8_(char* text, size_t size) {
  uint8_t* at = (uint8_t*)text;
  const uint8_t* const end = at + size;
  while (at < end) {
    const size_t sequence = sequence_at(at, end);
    if (sequence == 0) *at = '?';
    at += sequence == 0 ? 1 : sequence;
  }
}
