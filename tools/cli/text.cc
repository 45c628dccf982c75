#include "tools/cli/text.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"

namespace sluice::cli {
namespace {

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Length of the UTF-8 sequence that `text` begins with; 0 where it is malformed. RFC 3629
// section 4.
size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t size = lead >= 0xC2 && lead <= 0xDF   ? 2
                      : lead >= 0xE0 && lead <= 0xEF ? 3
                      : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                     : 0;
  if (size == 0 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  if (lead == 0xE0 && second < 0xA0) return 0;  // overlong
  if (lead == 0xED && second > 0x9F) return 0;  // surrogate
  if (lead == 0xF0 && second < 0x90) return 0;  // overlong
  if (lead == 0xF4 && second > 0x8F) return 0;  // above U+10FFFF
  return size;
}

// Code points: near enough to columns for the names that queues have.
size_t width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// 12, 12.5, +3.0, 99.1%.
bool is_number(std::string_view cell) {
  if (cell.starts_with('+') || cell.starts_with('-')) cell.remove_prefix(1);
  if (cell.ends_with('%')) cell.remove_suffix(1);
  return !cell.empty() && cell.find_first_not_of("0123456789.") == std::string::npos;
}

bool is_number_column(const std::vector<std::vector<std::string>>& rows, size_t column) {
  const auto number = [&](const auto& row) { return is_number(row[column]); };
  // "-" is a number that is not known.
  return std::any_of(rows.begin(), rows.end(), number) &&
         std::all_of(rows.begin(), rows.end(),
                     [&](const auto& row) { return number(row) || row[column] == "-"; });
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t size = utf8_sequence(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

std::string base64_encode(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
    }
    for (size_t j = 0; j < 4; ++j) {
      text += i + j > bytes.size() ? '=' : kBase64[group >> (18 - 6 * j) & 63];
    }
  }
  return text;
}

std::string base64_decode(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    const size_t value = kBase64.find(c);
    if (value == std::string_view::npos) break;
    group = group << 6 | static_cast<uint32_t>(value);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>(group >> bits & 0xFF);
    }
  }
  return bytes;
}

std::string printable(std::string_view text, bool lines) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const size_t size = utf8_sequence(text);
    const auto byte = static_cast<unsigned char>(text[0]);
    const bool layout = lines && (byte == '\n' || byte == '\t');
    const bool c1_control = size == 2 && byte == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0;
    if (size == 0 || c1_control || byte == 0x7F || (byte < 0x20 && !layout)) {
      const size_t bytes = std::max<size_t>(size, 1);
      for (size_t i = 0; i < bytes; ++i) {
        clean += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
      }
    } else {
      clean += text.substr(0, size);
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return clean;
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  const bool whole = value == static_cast<double>(static_cast<uint64_t>(value));
  return whole ? fmt::format("{:.0f} {}", value, kUnits[unit])
               : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_duration_ms(uint64_t duration_ms) {
  if (duration_ms < 1'000) return fmt::format("{} ms", duration_ms);
  if (duration_ms < 60'000) return fmt::format("{:g} s", static_cast<double>(duration_ms) / 1000);
  const uint64_t seconds = duration_ms / 1000;
  const auto two = [](uint64_t large, const char* unit, uint64_t small, const char* rest) {
    return small == 0 ? fmt::format("{} {}", large, unit)
                      : fmt::format("{} {} {} {}", large, unit, small, rest);
  };
  if (seconds < 3'600) return two(seconds / 60, "min", seconds % 60, "s");
  if (seconds < 86'400) return two(seconds / 3'600, "h", seconds % 3'600 / 60, "min");
  return two(seconds / 86'400, "d", seconds % 86'400 / 3'600, "h");
}

std::string human_duration_us(uint64_t duration_us) {
  if (duration_us < 1'000) return fmt::format("{} us", duration_us);
  if (duration_us >= 1'000'000) return human_duration_ms(duration_us / 1'000);
  const double ms = static_cast<double>(duration_us) / 1'000;
  return ms < 100 ? fmt::format("{:.1f} ms", ms) : fmt::format("{:.0f} ms", ms);
}

std::string human_time_ms(int64_t time_ms) {
  const time_t seconds = time_ms / 1000;
  std::tm local{};
  if (localtime_r(&seconds, &local) == nullptr) return std::to_string(time_ms);
  char date[32];
  const size_t size = std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
  return fmt::format("{}.{:03}", std::string_view(date, size), time_ms % 1000);
}

std::string counted(uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string counted(uint64_t count, std::string_view noun, std::string_view plural) {
  return fmt::format("{} {}", count, count == 1 ? noun : plural);
}

std::string align(const std::vector<std::string>& header,
                  const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(header.size(), 0);
  std::vector<bool> right(header.size(), false);
  for (size_t i = 0; i < header.size(); ++i) {
    widths[i] = width(header[i]);
    for (const auto& row : rows) {
      CHECK(row.size() == header.size());
      widths[i] = std::max(widths[i], width(row[i]));
    }
    right[i] = is_number_column(rows, i);
  }

  std::string text;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i) {
      const std::string gap(widths[i] - width(cells[i]), ' ');
      if (i > 0) line += "  ";
      line += right[i] ? gap + cells[i] : cells[i] + gap;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  };
  const bool titled =
      std::any_of(header.begin(), header.end(), [](const auto& title) { return !title.empty(); });
  if (titled) add_line(header);
  for (const auto& row : rows) add_line(row);
  return text;
}

}  // namespace sluice::cli
