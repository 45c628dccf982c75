#include "broker/amqp/table.h"

#include <bit>

#include "broker/amqp/limits.h"

namespace sluice::amqp {

namespace {

struct Budget {
  size_t fields;
};

Table read_fields(Bytes bytes, Reader& outer, int depth, Budget& budget);

Array read_array(Bytes bytes, Reader& outer, int depth, Budget& budget);

Field read_value(Reader& reader, int depth, Budget& budget) {
  if (depth > kTableDepthMax || budget.fields-- == 0) {
    budget.fields = 0;
    reader.fail();
    return {};
  }
  switch (reader.u8()) {
    case 't':
      return reader.u8() != 0;
    case 'b':
      return static_cast<int8_t>(reader.u8());
    case 'B':
      return reader.u8();
    case 's':
      return static_cast<int16_t>(reader.u16());
    case 'u':
      return reader.u16();
    case 'I':
      return static_cast<int32_t>(reader.u32());
    case 'i':
      return reader.u32();
    case 'l':
      return static_cast<int64_t>(reader.u64());
    case 'L':
      return reader.u64();
    case 'f':
      return std::bit_cast<float>(reader.u32());
    case 'd':
      return std::bit_cast<double>(reader.u64());
    case 'D': {
      uint8_t scale = reader.u8();
      return Decimal{scale, static_cast<int32_t>(reader.u32())};
    }
    case 'S':
      return std::string(as_text(reader.long_string()));
    case 'x':
      return ByteArray{std::string(as_text(reader.long_string()))};
    case 'T':
      return Timestamp{reader.u64()};
    case 'A':
      return read_array(reader.long_string(), reader, depth, budget);
    case 'F':
      return read_fields(reader.long_string(), reader, depth, budget);
    case 'V':
      return {};
    default:
      reader.fail();
      return {};
  }
}

Table read_fields(Bytes bytes, Reader& outer, int depth, Budget& budget) {
  Table table;
  Reader reader(bytes);
  while (reader.left() > 0) {
    std::string name(reader.short_string());
    Field value = read_value(reader, depth + 1, budget);
    if (!reader.ok()) break;
    table.fields.emplace_back(std::move(name), std::move(value));
  }
  if (!reader.ok()) outer.fail();
  return table;
}

Array read_array(Bytes bytes, Reader& outer, int depth, Budget& budget) {
  Array array;
  Reader reader(bytes);
  while (reader.left() > 0) {
    Field value = read_value(reader, depth + 1, budget);
    if (!reader.ok()) break;
    array.push_back(std::move(value));
  }
  if (!reader.ok()) outer.fail();
  return array;
}

void write_fields(Writer& writer, const Table& table);

struct ValueWriter {
  Writer& writer;

  void operator()(std::monostate) { writer.u8('V'); }
  void operator()(bool v) { tag('t').u8(v ? 1 : 0); }
  void operator()(int8_t v) { tag('b').u8(static_cast<uint8_t>(v)); }
  void operator()(uint8_t v) { tag('B').u8(v); }
  void operator()(int16_t v) { tag('s').u16(static_cast<uint16_t>(v)); }
  void operator()(uint16_t v) { tag('u').u16(v); }
  void operator()(int32_t v) { tag('I').u32(static_cast<uint32_t>(v)); }
  void operator()(uint32_t v) { tag('i').u32(v); }
  void operator()(int64_t v) { tag('l').u64(static_cast<uint64_t>(v)); }
  void operator()(uint64_t v) { tag('L').u64(v); }
  void operator()(float v) { tag('f').u32(std::bit_cast<uint32_t>(v)); }
  void operator()(double v) { tag('d').u64(std::bit_cast<uint64_t>(v)); }
  void operator()(const Decimal& v) {
    tag('D').u8(v.scale);
    writer.u32(static_cast<uint32_t>(v.value));
  }
  void operator()(const std::string& v) { tag('S').long_string(as_bytes(v)); }
  void operator()(const ByteArray& v) { tag('x').long_string(as_bytes(v.bytes)); }
  void operator()(const Timestamp& v) { tag('T').u64(v.seconds); }
  void operator()(const Array& v) {
    tag('A');
    sized([&] {
      for (const Field& field : v) std::visit(*this, field.value);
    });
  }
  void operator()(const Table& v) {
    tag('F');
    sized([&] { write_fields(writer, v); });
  }

  Writer& tag(char letter) {
    writer.u8(static_cast<uint8_t>(letter));
    return writer;
  }
  template <typename F>
  void sized(F body) {
    size_t at = writer.size();
    writer.u32(0);
    body();
    writer.set_u32(at, static_cast<uint32_t>(writer.size() - at - 4));
  }
};

void write_fields(Writer& writer, const Table& table) {
  for (const auto& [name, field] : table.fields) {
    writer.short_string(name);
    std::visit(ValueWriter{writer}, field.value);
  }
}

std::optional<double> number(const Field& field) {
  return std::visit(
      [](const auto& v) -> std::optional<double> {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
          return static_cast<double>(v);
        } else {
          return std::nullopt;
        }
      },
      field.value);
}

}  // namespace

const Field* Table::find(std::string_view name) const {
  for (const auto& [key, field] : fields) {
    if (key == name) return &field;
  }
  return nullptr;
}

void Table::set(std::string_view name, Field value) {
  for (auto& [key, field] : fields) {
    if (key == name) {
      field = std::move(value);
      return;
    }
  }
  fields.emplace_back(std::string(name), std::move(value));
}

std::optional<int64_t> Field::integer() const {
  return std::visit(
      [](const auto& v) -> std::optional<int64_t> {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          return static_cast<int64_t>(v);
        } else {
          return std::nullopt;
        }
      },
      value);
}

bool operator==(const Field& a, const Field& b) { return a.value == b.value; }
bool operator==(const Table& a, const Table& b) { return a.fields == b.fields; }

bool equivalent(const Field& a, const Field& b) {
  auto x = a.integer(), y = b.integer();
  if (x && y) return *x == *y;
  auto p = number(a), q = number(b);
  if (p && q) return *p == *q;
  return a == b;
}

Table read_table(Reader& reader, size_t fields_max) {
  Budget budget{fields_max};
  return read_fields(reader.long_string(), reader, 0, budget);
}

void write_table(Writer& writer, const Table& table) {
  ValueWriter{writer}.sized([&] { write_fields(writer, table); });
}

}  // namespace sluice::amqp
