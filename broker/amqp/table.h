#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "broker/amqp/limits.h"
#include "broker/amqp/wire.h"

namespace sluice::amqp {

struct Field;
using Array = std::vector<Field>;

// A field table (section 4.2.5.5), in the order it was sent. Duplicate names are kept; find() takes
// the first.
struct Table {
  std::vector<std::pair<std::string, Field>> fields;

  const Field* find(std::string_view name) const;
  // Replaces the field of that name or appends it.
  void set(std::string_view name, Field value);
  bool empty() const { return fields.empty(); }
};

struct Decimal {
  uint8_t scale;
  int32_t value;
  bool operator==(const Decimal&) const = default;
};
struct Timestamp {
  uint64_t seconds;
  bool operator==(const Timestamp&) const = default;
};
struct ByteArray {
  std::string bytes;
  bool operator==(const ByteArray&) const = default;
};

// One value, with the type letters that RabbitMQ and its clients use: t b B s u I i l L f d D S x A
// T F V.
struct Field {
  using Value = std::variant<std::monostate, bool, int8_t, uint8_t, int16_t, uint16_t, int32_t,
                             uint32_t, int64_t, uint64_t, float, double, Decimal, std::string,
                             ByteArray, Timestamp, Array, Table>;
  Value value;

  Field() = default;
  template <typename T>
  Field(T v) : value(std::move(v)) {}  // NOLINT: implicit on purpose, a Field is its value

  // The value as an integer where it is one, of whatever width.
  std::optional<int64_t> integer() const;
  const std::string* text() const { return std::get_if<std::string>(&value); }
  const bool* boolean() const { return std::get_if<bool>(&value); }
  const Table* table() const { return std::get_if<Table>(&value); }
  const Array* array() const { return std::get_if<Array>(&value); }
};

bool operator==(const Field& a, const Field& b);
bool operator==(const Table& a, const Table& b);

// Reads a table with its length in front. On a malformed one, or one over the limits, `reader`
// fails.
// What peers send is held to the default number of fields.
Table read_table(Reader& reader, size_t fields_max = kTableFieldsMax);
void write_table(Writer& writer, const Table& table);

// Whether two values are equal as numbers where both are numbers, else exactly.
bool equivalent(const Field& a, const Field& b);

}  // namespace sluice::amqp
