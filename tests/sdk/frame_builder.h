#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Invocations for the tests of the C library's insides, after sdk/PROTOCOL.md.
namespace sluice::sdk_test {

inline void put(std::string& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) to += static_cast<char>(value >> (8 * i));
}

inline std::string item(int tag, std::string_view content) {
  std::string found(1, static_cast<char>(tag));
  put(found, content.size(), 4);
  return found.append(content);
}

inline std::string header(int kind, std::string_view name, std::string_view value) {
  std::string content(1, static_cast<char>(kind));
  put(content, name.size(), 2);
  return item(25, content.append(name).append(value));
}

inline std::string record(std::string_view body, std::string_view headers = {}) {
  std::string found;
  put(found, 1, 8);
  put(found, 2, 8);
  put(found, 3, 4);
  put(found, 1, 4);
  return found.append(item(16, body)).append(headers);
}

inline std::string invocation(const std::vector<std::string>& records,
                              std::string_view items = {}) {
  std::string content;
  put(content, 1, 2);
  put(content, 0, 2);
  put(content, 5, 8);
  put(content, 6, 4);
  put(content, records.size(), 4);
  content += items;
  for (const std::string& each : records) content += item(5, each);
  std::string frame;
  put(frame, content.size(), 4);
  return frame + content;
}

}  // namespace sluice::sdk_test
