#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::broker::protocol {

// Reads invocations as a program would (sdk/PROTOCOL.md), with a code of its own. Throws where a
// frame breaks the rules.
template <typename T>
std::string little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string made_item(uint8_t tag, std::string_view content) {
  return std::string(1, static_cast<char>(tag)) + little(static_cast<uint32_t>(content.size())) +
         std::string(content);
}

struct Item {
  uint8_t tag;
  std::string content;
  bool operator==(const Item&) const = default;
};

struct ReadRecord {
  uint64_t id, published_ms;
  uint32_t attempt, flags;
  std::vector<Item> items;
};

struct ReadInvocation {
  uint16_t version, flags;
  uint64_t deadline_ns;
  uint32_t timeout_ms, record_count;
  std::vector<Item> items;
  std::vector<ReadRecord> records;
};

template <typename T>
T take(std::string_view& bytes) {
  if (bytes.size() < sizeof(T)) throw std::runtime_error("too short");
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

inline std::vector<Item> take_items(std::string_view bytes) {
  std::vector<Item> items;
  while (!bytes.empty()) {
    auto tag = take<uint8_t>(bytes);
    auto length = take<uint32_t>(bytes);
    if (length > bytes.size()) throw std::runtime_error("an item is too long");
    items.push_back({tag, std::string(bytes.substr(0, length))});
    bytes.remove_prefix(length);
  }
  return items;
}

inline ReadInvocation read_invocation(std::string_view frame) {
  if (take<uint32_t>(frame) != frame.size()) throw std::runtime_error("the wrong length");
  ReadInvocation read{};
  read.version = take<uint16_t>(frame);
  read.flags = take<uint16_t>(frame);
  read.deadline_ns = take<uint64_t>(frame);
  read.timeout_ms = take<uint32_t>(frame);
  read.record_count = take<uint32_t>(frame);
  read.items = take_items(frame);
  for (const Item& item : read.items) {
    if (item.tag != 5) continue;
    std::string_view bytes = item.content;
    ReadRecord record{};
    record.id = take<uint64_t>(bytes);
    record.published_ms = take<uint64_t>(bytes);
    record.attempt = take<uint32_t>(bytes);
    record.flags = take<uint32_t>(bytes);
    record.items = take_items(bytes);
    read.records.push_back(std::move(record));
  }
  if (read.records.size() != read.record_count) throw std::runtime_error("the wrong number");
  return read;
}

}  // namespace sluice::broker::protocol
