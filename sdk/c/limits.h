#ifndef SLUICE_SDK_LIMITS_H
#define SLUICE_SDK_LIMITS_H

#include <assert.h>

// The limits of the C SDK. Those of the protocol are PROTOCOL.md's.
enum {
  kBufferBytes = 64 * 1024,                // what is there from the start, for each direction
  kInvocationBytesMax = 64 * 1024 * 1024,  // after the length field
  kAnswerBytesMax = 1024 * 1024 * 1024,    // the function's own limit is lower, and not known here
  kNameBytesMax = 255,                     // header names, routing keys, exchanges
  kAnswerItemsMax = 65536,
  kLogLinesMax = 16384,
  kLogBytesMax = 1024 * 1024,
  kFormattedBytesMax = 1024,  // with the final zero
  kRecordsFirst = 64,         // the index that is there from the start
};

static_assert(kLogLinesMax < kAnswerItemsMax, "logs must leave room for what counts");
static_assert(kFormattedBytesMax + 64 < kBufferBytes, "a failure fits any buffer");
static_assert(kInvocationBytesMax + 4 < 1 << 30, "the index keeps two bits for itself");

#endif
