#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

// What people type, as values. Pure functions; every Error is kInvalid with a message that shows
// the form that is wanted.
namespace sluice::cli {

struct Url {
  std::string user;
  std::string password;
  std::string host;  // without brackets where it is an IPv6 address
  uint16_t port = 0;
  std::string path;  // from the first '/', percent-encoded as given; "" where there is none

  // For messages: host and port only, so that no password reaches a log.
  std::string endpoint() const;
};

struct Backoff {
  uint64_t min_ms;
  uint64_t max_ms;
};

// An exchange and a routing key. An empty exchange is the default one: the key names a queue.
struct Destination {
  std::string exchange;
  std::string routing_key;
};

// 4096, 64KiB, 1.5GB ...: K, M, G with "B" are powers of 1000, with "iB" or alone of 1024.
Expected<uint64_t> parse_size_bytes(std::string_view text);

// 100ms, 5s, 1.5m, 2h. The unit is required: a bare number has misled too many.
Expected<uint64_t> parse_duration_ms(std::string_view text);

// MIN..MAX, both durations; one duration stands for a constant back-off.
Expected<Backoff> parse_backoff(std::string_view text);

// EXCHANGE/KEY, split at the first '/': an exchange whose name has one cannot be written this way.
Expected<Destination> parse_destination(std::string_view text);

// KEY=VALUE, split at the first '='; the key must not be empty, the value may be.
Expected<std::pair<std::string, std::string>> parse_key_value(std::string_view text);

// SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH]; user and password are percent-decoded.
Expected<Url> parse_url(std::string_view text, std::string_view scheme, uint16_t port_default);

// RFC 3986 section 2.1. Encodes all but unreserved characters.
std::string percent_encode(std::string_view text);
Expected<std::string> percent_decode(std::string_view text);

}  // namespace sluice::cli
