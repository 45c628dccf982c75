#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// How values look to people. Pure functions.
namespace sluice::cli {

// True where every byte belongs to well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms).
bool is_utf8(std::string_view text);

// RFC 4648 section 4.
std::string base64_encode(std::string_view bytes);
// Stops at the first character that is not of the alphabet.
std::string base64_decode(std::string_view text);

// `text` with control characters, and bytes that are not UTF-8, as \xNN: what came from a message
// or a guest must not steer a person's terminal. Line feeds and tabs stay where `lines` is set.
std::string printable(std::string_view text, bool lines = false);

// 64 MiB, 1.5 KiB, 12 B.
std::string human_bytes(uint64_t bytes);
// 250 ms, 5 s, 3 min 12 s, 2 d 4 h.
std::string human_duration_ms(uint64_t duration_ms);
// 350 us, 1.2 ms; from a second on as the above.
std::string human_duration_us(uint64_t duration_us);
// Local time to the millisecond: 2026-01-31 17:05:09.123.
std::string human_time_ms(int64_t time_ms);
// 1 message, 2 messages; 1 entry, 2 entries.
std::string counted(uint64_t count, std::string_view noun);
std::string counted(uint64_t count, std::string_view noun, std::string_view plural);

// Rows below their header, columns two spaces apart, wide enough for their longest cell and no
// wider; a column of numbers is set to the right. Every row has as many cells as `header`. An empty
// header line is left out.
std::string align(const std::vector<std::string>& header,
                  const std::vector<std::vector<std::string>>& rows);

}  // namespace sluice::cli
