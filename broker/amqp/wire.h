#pragma once

#include <algorithm>
#include <bit>
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

// Appends AMQP's elementary types to a string of the caller's, who leaves that alone as long as the
// Writer lives: meanwhile it is longer than what was written.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out), at_(out.data() + out.size()) {
    extend(out.capacity());
  }
  ~Writer() { out_.resize(size()); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void u8(uint8_t value) { integer<1>(value); }
  void u16(uint16_t value) { integer<2>(value); }
  void u32(uint32_t value) { integer<4>(value); }
  void u64(uint64_t value) { integer<8>(value); }
  // Longer texts are cut: 255 bytes is all that a short string can hold.
  void short_string(std::string_view text) {
    text = text.substr(0, 255);
    u8(static_cast<uint8_t>(text.size()));
    raw(as_bytes(text));
  }
  void long_string(Bytes bytes) {
    u32(static_cast<uint32_t>(bytes.size()));
    raw(bytes);
  }
  void raw(Bytes bytes) {
    if (bytes.empty()) return;
    make_room(bytes.size());
    std::memcpy(at_, bytes.data(), bytes.size());
    at_ += bytes.size();
  }

  size_t size() const { return static_cast<size_t>(at_ - out_.data()); }
  // Fills in a length that was not known when its place was written.
  void set_u32(size_t at, uint32_t value) {
    value = __builtin_bswap32(value);
    std::memcpy(out_.data() + at, &value, sizeof value);
  }

 private:
  static_assert(std::endian::native == std::endian::little);

  template <size_t kBytes>
  void integer(uint64_t value) {
    make_room(kBytes);
    value = __builtin_bswap64(value) >> (64 - 8 * kBytes);
    std::memcpy(at_, &value, kBytes);
    at_ += kBytes;
  }

  void make_room(size_t bytes) {
    if (static_cast<size_t>(end_ - at_) < bytes) [[unlikely]] {
      extend(std::max(size() + bytes, 2 * out_.size()));
    }
  }
  // The string's length becomes `bytes`; what lies behind at_ is not initialized.
  void extend(size_t bytes) {
    size_t written = size();
    out_.resize_and_overwrite(bytes, [](char*, size_t length) { return length; });
    at_ = out_.data() + written;
    end_ = out_.data() + out_.size();
  }

  std::string& out_;
  char* at_;
  char* end_;
};

}  // namespace sluice::amqp
