#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "storage/store.h"

// The byte layouts of storage/FORMAT.md.
namespace sluice::storage {

static_assert(std::endian::native == std::endian::little);

inline void put_be64(char* to, uint64_t value) {
  value = __builtin_bswap64(value);
  std::memcpy(to, &value, sizeof value);
}

inline uint64_t get_be64(const char* from) {
  uint64_t value;
  std::memcpy(&value, from, sizeof value);
  return __builtin_bswap64(value);
}

inline void put_be32(char* to, uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(to, &value, sizeof value);
}

inline uint32_t get_be32(const char* from) {
  uint32_t value;
  std::memcpy(&value, from, sizeof value);
  return __builtin_bswap32(value);
}

inline constexpr size_t kQueueKeyBytes = 8;
inline constexpr size_t kMessageKeyBytes = 16;

// queue_id, the key of a queue's position.
class QueueKey {
 public:
  explicit QueueKey(QueueId queue) { put_be64(bytes_.data(), queue); }
  std::string_view view() const { return {bytes_.data(), bytes_.size()}; }

 private:
  std::array<char, kQueueKeyBytes> bytes_;
};

// queue_id | sequence: the bytes sort as the numbers do.
class MessageKey {
 public:
  MessageKey(QueueId queue, Sequence sequence) {
    put_be64(bytes_.data(), queue);
    put_be64(bytes_.data() + 8, sequence);
  }
  std::string_view view() const { return {bytes_.data(), bytes_.size()}; }

  static QueueId queue(const char* key) { return get_be64(key); }
  static Sequence sequence(const char* key) { return get_be64(key + 8); }

 private:
  std::array<char, kMessageKeyBytes> bytes_;
};

// The first key behind those of `queue`. Queue ids count up from 1; the last one is not given out.
inline MessageKey end_of_queue(QueueId queue) { return {queue + 1, 0}; }

inline constexpr size_t kGroupKeyBytes = 24;

// queue_id | group | sequence.
class GroupKey {
 public:
  GroupKey(QueueId queue, uint64_t group, Sequence sequence) {
    put_be64(bytes_.data(), queue);
    put_be64(bytes_.data() + 8, group);
    put_be64(bytes_.data() + 16, sequence);
  }
  std::string_view view() const { return {bytes_.data(), bytes_.size()}; }

  static uint64_t group(const char* key) { return get_be64(key + 8); }
  static Sequence sequence(const char* key) { return get_be64(key + 16); }

 private:
  std::array<char, kGroupKeyBytes> bytes_;
};

inline constexpr size_t kChunkKeyBytes = 12;

// body_id | index, in the family of chunks.
class ChunkKey {
 public:
  ChunkKey(BodyId body, uint32_t index) {
    put_be64(bytes_.data(), body);
    put_be32(bytes_.data() + 8, index);
  }
  std::string_view view() const { return {bytes_.data(), bytes_.size()}; }

  static BodyId body(const char* key) { return get_be64(key); }

 private:
  std::array<char, kChunkKeyBytes> bytes_;
};

// The kinds of key in the index of bodies: the first byte.
enum class BodyKey : char {
  kRef = 1,       // queue_id | sequence -> body_id: the message's body
  kCount,         // body_id -> references (4), chunks (4)
  kUnreferenced,  // body_id -> chunks (4): no message refers to it, or none yet
  kUnswept,       // queue_id -> nothing: has references behind its watermark
};

// kind | number, and for kRef a second one.
class BodyIndexKey {
 public:
  BodyIndexKey(BodyKey kind, uint64_t id) : size_(9) {
    bytes_[0] = static_cast<char>(kind);
    put_be64(bytes_.data() + 1, id);
  }
  BodyIndexKey(QueueId queue, Sequence sequence) : BodyIndexKey(BodyKey::kRef, queue) {
    size_ = 17;
    put_be64(bytes_.data() + 9, sequence);
  }
  std::string_view view() const { return {bytes_.data(), size_}; }

  static uint64_t id(const char* key) { return get_be64(key + 1); }
  static Sequence sequence(const char* key) { return get_be64(key + 9); }

 private:
  std::array<char, 17> bytes_;
  size_t size_;
};

// The kinds of key in the family of schedules: the first byte.
enum class ScheduleKind : char {
  kMessage = 1,  // queue_id | due_ms | number -> a delayed message
  kPosition,     // queue_id -> first due_ms, next number, count
  kExpiring,     // queue_id -> nothing: some of its messages may expire
};
inline constexpr char kScheduleKindEnd = 4;

// kind | queue_id, and for kMessage where it is in the schedule.
class ScheduleRowKey {
 public:
  ScheduleRowKey(ScheduleKind kind, QueueId queue) : size_(9) {
    bytes_[0] = static_cast<char>(kind);
    put_be64(bytes_.data() + 1, queue);
  }
  ScheduleRowKey(QueueId queue, ScheduleKey key) : ScheduleRowKey(ScheduleKind::kMessage, queue) {
    size_ = 25;
    put_be64(bytes_.data() + 9, key.due_ms);
    put_be64(bytes_.data() + 17, key.number);
  }
  std::string_view view() const { return {bytes_.data(), size_}; }

  static ScheduleKey key(const char* key) { return {get_be64(key + 9), get_be64(key + 17)}; }

 private:
  std::array<char, 25> bytes_;
  size_t size_;
};

// The kinds of key in the family of deduplication ids: the first byte.
enum class DedupKind : char {
  kId = 1,    // queue_id | hash (16) -> number, at_ms
  kPosition,  // queue_id -> watermark, next number, last at_ms, then the marks
};
inline constexpr char kDedupKindEnd = 3;

// kind | queue_id, and for kId the hash.
class DedupRowKey {
 public:
  DedupRowKey(DedupKind kind, QueueId queue) : size_(9) {
    bytes_[0] = static_cast<char>(kind);
    put_be64(bytes_.data() + 1, queue);
  }
  DedupRowKey(QueueId queue, const DedupHash& id) : DedupRowKey(DedupKind::kId, queue) {
    size_ = 25;
    std::memcpy(bytes_.data() + 9, id.data(), id.size());
  }
  std::string_view view() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, 25> bytes_;
  size_t size_;
};

// Of both.
inline constexpr size_t kTimeKeyBytesMin = 9;
inline QueueId queue_of_time_key(const char* key) { return get_be64(key + 1); }

inline constexpr uint32_t kFormatVersion = 3;
// Keys of the default column family.
inline constexpr std::string_view kFormatKey = "format";
inline constexpr std::string_view kCleanKey = "clean";

// Log data (kept in the write-ahead log only) at the beginning of every write that is part of
// opening: all older logs are in tables by then, and what is wrong with them does not matter any
// more.
inline constexpr std::string_view kOpenedMark = "sluice.opened";

// Log data at the beginning of a write in front of which others may not be synced: the mark, then
// the sequence number behind the last one that is (8 bytes). A write without it says that all in
// front of it are.
inline constexpr std::string_view kSyncedMark = "sluice.synced";
inline constexpr size_t kSyncedMarkBytes = kSyncedMark.size() + 8;

}  // namespace sluice::storage
