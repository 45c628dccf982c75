#pragma once

#include <cstdio>
#include <cstdlib>

// A programmer's mistake: prints where and stops the process, in every build type. Never used on
// what a peer, a guest or the disk supplied.
#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
