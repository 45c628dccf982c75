#include "tools/cli/parse.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include <fmt/format.h>

namespace sluice::cli {
namespace {

struct Unit {
  std::string_view name;
  uint64_t factor;
};

constexpr std::array kSizeUnits = {
    Unit{"", 1},
    Unit{"B", 1},
    Unit{"K", 1ull << 10},
    Unit{"KiB", 1ull << 10},
    Unit{"KB", 1'000},
    Unit{"M", 1ull << 20},
    Unit{"MiB", 1ull << 20},
    Unit{"MB", 1'000'000},
    Unit{"G", 1ull << 30},
    Unit{"GiB", 1ull << 30},
    Unit{"GB", 1'000'000'000},
};

constexpr std::array kDurationUnits = {
    Unit{"ms", 1},
    Unit{"s", 1'000},
    Unit{"m", 60'000},
    Unit{"h", 3'600'000},
};

template <size_t N>
std::optional<uint64_t> unit_factor(const std::array<Unit, N>& units, std::string_view name) {
  for (const Unit& unit : units) {
    if (unit.name == name) return unit.factor;
  }
  return std::nullopt;
}

std::optional<uint64_t> whole_number(std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

// A number with an optional fraction and a unit, as a whole number of the smallest unit; nullopt
// where it is malformed, too large, or not a whole number of them.
template <size_t N>
std::optional<uint64_t> number_with_unit(std::string_view text, const std::array<Unit, N>& units) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto whole = whole_number(text.substr(0, digits));
  if (!whole) return std::nullopt;
  text.remove_prefix(digits);

  std::string_view fraction;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    fraction = text.substr(0, std::min(text.find_first_not_of("0123456789"), text.size()));
    if (fraction.empty() || fraction.size() > 9) return std::nullopt;
    text.remove_prefix(fraction.size());
  }
  const auto factor = unit_factor(units, text);
  uint64_t value = 0;
  if (!factor || __builtin_mul_overflow(*whole, *factor, &value)) return std::nullopt;
  if (!fraction.empty()) {
    uint64_t scale = 1;
    for (size_t i = 0; i < fraction.size(); ++i) scale *= 10;
    // At most 10^9 * 3.6 * 10^6: no overflow.
    const uint64_t part = *whole_number(fraction) * *factor;
    if (part % scale != 0 || __builtin_add_overflow(value, part / scale, &value)) {
      return std::nullopt;
    }
  }
  return value;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// HOST, HOST:PORT, [V6] or [V6]:PORT into `url`; false where malformed.
bool parse_authority(std::string_view text, uint16_t port_default, Url& url) {
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return false;
    url.host = text.substr(1, close - 1);
    text.remove_prefix(close + 1);
    has_port = text.starts_with(':');
    if (!has_port && !text.empty()) return false;
    if (has_port) port = text.substr(1);
  } else {
    const size_t colon = text.find(':');
    has_port = colon != std::string_view::npos;
    url.host = text.substr(0, colon);
    if (has_port) port = text.substr(colon + 1);
  }
  url.port = port_default;
  if (has_port) {
    const auto number = whole_number(port);
    if (!number || *number == 0 || *number > 65535) return false;
    url.port = static_cast<uint16_t>(*number);
  }
  return !url.host.empty();
}

}  // namespace

std::string Url::endpoint() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Expected<uint64_t> parse_size_bytes(std::string_view text) {
  if (const auto value = number_with_unit(text, kSizeUnits)) return *value;
  return fail(Code::kInvalid,
              fmt::format("'{}' is not a size; write it like 4096, 64KiB or 2GiB", text));
}

Expected<uint64_t> parse_duration_ms(std::string_view text) {
  if (const auto value = number_with_unit(text, kDurationUnits)) return *value;
  return fail(Code::kInvalid, fmt::format("'{}' is not a duration; write it with its unit, like "
                                          "100ms, 5s or 2m",
                                          text));
}

Expected<Backoff> parse_backoff(std::string_view text) {
  const size_t dots = text.find("..");
  const auto min = parse_duration_ms(text.substr(0, dots));
  const auto max = dots == std::string_view::npos ? min : parse_duration_ms(text.substr(dots + 2));
  if (!min || !max) {
    return fail(Code::kInvalid, fmt::format("'{}' is not a back-off; write the shortest and the "
                                            "longest wait like 100ms..30s",
                                            text));
  }
  if (*min > *max) {
    return fail(Code::kInvalid,
                fmt::format("the back-off '{}' ends before it begins; did you mean {}..{}?", text,
                            text.substr(dots + 2), text.substr(0, dots)));
  }
  return Backoff{*min, *max};
}

Expected<Destination> parse_destination(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return fail(
        Code::kInvalid,
        fmt::format("'{}' is not a destination; write EXCHANGE/KEY, or /QUEUE for a queue", text));
  }
  if (text.size() == 1) {
    return fail(Code::kInvalid, "the destination '/' names no queue; write EXCHANGE/KEY or /QUEUE");
  }
  return Destination{std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
}

Expected<std::pair<std::string, std::string>> parse_key_value(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return fail(Code::kInvalid, fmt::format("'{}' is not KEY=VALUE", text));
  }
  return std::pair(std::string(text.substr(0, equals)), std::string(text.substr(equals + 1)));
}

Expected<Url> parse_url(std::string_view text, std::string_view scheme, uint16_t port_default) {
  const auto malformed = [&] {
    return fail(Code::kInvalid, fmt::format("not a broker's URL; write {}://USER:PASSWORD@HOST:{}",
                                            scheme, port_default));
  };
  const std::string prefix = fmt::format("{}://", scheme);
  if (!text.starts_with(prefix)) return malformed();
  text.remove_prefix(prefix.size());

  Url url;
  const size_t slash = text.find('/');
  if (slash != std::string_view::npos) url.path = text.substr(slash);
  text = text.substr(0, slash);

  const size_t at = text.rfind('@');
  if (at != std::string_view::npos) {
    const std::string_view login = text.substr(0, at);
    const size_t colon = login.find(':');
    const auto user = percent_decode(login.substr(0, colon));
    const auto password =
        colon == std::string_view::npos ? std::string() : percent_decode(login.substr(colon + 1));
    if (!user || !password) return malformed();
    url.user = *user;
    url.password = *password;
    text.remove_prefix(at + 1);
  }
  if (!parse_authority(text, port_default, url)) return malformed();
  return url;
}

std::string percent_encode(std::string_view text) {
  std::string encoded;
  for (const unsigned char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      encoded += static_cast<char>(c);
    } else {
      encoded += fmt::format("%{:02X}", c);
    }
  }
  return encoded;
}

Expected<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size() || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0) {
      return fail(Code::kInvalid, fmt::format("'{}' has a '%' without two hex digits", text));
    }
    decoded += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
    i += 2;
  }
  return decoded;
}

}  // namespace sluice::cli
