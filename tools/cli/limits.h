#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::cli {

// One message body or one call's input, read into memory whole.
inline constexpr size_t kInputBytesMax = size_t{512} << 20;
// One function image, read into memory whole.
inline constexpr size_t kImageBytesMax = size_t{1} << 30;
// A function's root file system, put together in memory: its contents, and how many entries it has.
inline constexpr uint64_t kRootfsBytesMax = uint64_t{1} << 30;
inline constexpr size_t kRootfsEntriesMax = 200'000;
// What Linux takes for a path and for a part of one, without the final zero.
inline constexpr size_t kRootfsPathBytesMax = 4095;
inline constexpr size_t kRootfsNameBytesMax = 255;
// What a program that we start may print: lists of packages and of their files.
inline constexpr size_t kChildOutputBytesMax = size_t{1} << 30;
// Packages that one root file system is made of.
inline constexpr size_t kPackagesMax = 2'000;
// AMQP 0-9-1 section 4.2.5.3: names are short strings.
inline constexpr size_t kShortStringBytesMax = 255;

// Publishes that may wait for their confirm at a time.
inline constexpr size_t kConfirmWindow = 1000;
// Deliveries that wait in our buffers while one is written out.
inline constexpr uint16_t kPrefetch = 256;

inline constexpr int kHeartbeatSeconds = 30;
inline constexpr int kConnectTimeoutMs = 5'000;
// An answer of the broker to one request; a deployment runs the program up to its snapshot.
inline constexpr int kAnswerTimeoutMs = 120'000;
// An upload goes out, and its progress is shown, in pieces of this size.
inline constexpr size_t kUploadPieceBytes = size_t{256} << 10;
// How long one request for new log entries waits at the broker.
inline constexpr int kLogWaitMs = 20'000;
static_assert(kLogWaitMs < kAnswerTimeoutMs);

}  // namespace sluice::cli
