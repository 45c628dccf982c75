#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace sluice::amqp {

using Bytes = std::span<const uint8_t>;

inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Reads AMQP's elementary types (section 4.2.5) out of bytes that it does not own. The first read
// past the end makes ok() false for good; it and all later reads return zeros and empty views, so a
// caller checks once, at the end. Views point into the bytes read from.
class Reader {
 public:
  explicit Reader(Bytes bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  bool ok() const { return ok_; }
  size_t left() const { return static_cast<size_t>(end_ - at_); }
  void fail() {
    ok_ = false;
    at_ = end_;
  }

  uint8_t u8() { return static_cast<uint8_t>(integer<1>()); }
  uint16_t u16() { return static_cast<uint16_t>(integer<2>()); }
  uint32_t u32() { return static_cast<uint32_t>(integer<4>()); }
  uint64_t u64() { return integer<8>(); }
  std::string_view short_string() { return as_text(take(u8())); }
  Bytes long_string() { return take(u32()); }

  Bytes take(size_t count) {
    if (count > left()) {
      fail();
      return {};
    }
    Bytes taken(at_, count);
    at_ += count;
    return taken;
  }

 private:
  template <size_t kBytes>
  uint64_t integer() {
    if (left() < kBytes) {
      fail();
      return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < kBytes; ++i) value = value << 8 | at_[i];
    at_ += kBytes;
    return value;
  }

  const uint8_t* at_;
  const uint8_t* end_;
  bool ok_ = true;
};

// Appends AMQP's elementary types to a buffer of the caller's.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  void u8(uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void u16(uint16_t value) { integer<2>(value); }
  void u32(uint32_t value) { integer<4>(value); }
  void u64(uint64_t value) { integer<8>(value); }
  // Longer texts are cut: 255 bytes is all that a short string can hold.
  void short_string(std::string_view text) {
    text = text.substr(0, 255);
    u8(static_cast<uint8_t>(text.size()));
    out_.append(text);
  }
  void long_string(Bytes bytes) {
    u32(static_cast<uint32_t>(bytes.size()));
    raw(bytes);
  }
  void raw(Bytes bytes) { out_.append(as_text(bytes)); }

  size_t size() const { return out_.size(); }
  // Fills in a length that was not known when its place was written.
  void set_u32(size_t at, uint32_t value) {
    for (int i = 0; i < 4; ++i) out_[at + i] = static_cast<char>(value >> (24 - 8 * i));
  }

 private:
  template <size_t kBytes>
  void integer(uint64_t value) {
    char bytes[kBytes];
    for (size_t i = 0; i < kBytes; ++i) {
      bytes[i] = static_cast<char>(value >> (8 * (kBytes - 1 - i)));
    }
    out_.append(bytes, kBytes);
  }

  std::string& out_;
};

}  // namespace sluice::amqp
