#include "broker/amqp/table.h"

#include <gtest/gtest.h>

#include "broker/amqp/limits.h"
#include "broker/amqp/properties.h"

namespace sluice::amqp {
namespace {

std::string encoded(const Table& table) {
  std::string out;
  {
    Writer writer(out);
    write_table(writer, table);
  }
  return out;
}

Table every_type() {
  Table inner;
  inner.set("nested", std::string("yes"));
  Table table;
  table.set("void", Field());
  table.set("bool", true);
  table.set("i8", int8_t{-8});
  table.set("u8", uint8_t{200});
  table.set("i16", int16_t{-300});
  table.set("u16", uint16_t{60000});
  table.set("i32", int32_t{-70000});
  table.set("u32", uint32_t{4'000'000'000});
  table.set("i64", int64_t{-5'000'000'000});
  table.set("float", 1.5F);
  table.set("double", 2.25);
  table.set("decimal", Decimal{2, 314});
  table.set("text", std::string("h\xc3\xa9"));
  table.set("bytes", ByteArray{std::string("\0\1", 2)});
  table.set("time", Timestamp{1'700'000'000});
  table.set("array", Array{std::string("a"), int64_t{1}, Table(inner)});
  table.set("table", inner);
  return table;
}

TEST(Table, EveryTypeComesBack) {
  Table table = every_type();
  std::string bytes = encoded(table);
  Reader reader(as_bytes(bytes));
  EXPECT_EQ(read_table(reader), table);
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.left(), 0u);
}

TEST(Table, CutShortAnywhereIsRefused) {
  std::string bytes = encoded(every_type());
  for (size_t length = 0; length < bytes.size(); ++length) {
    Reader reader(as_bytes(bytes).first(length));
    read_table(reader);
    EXPECT_FALSE(reader.ok()) << length;
  }
}

TEST(Table, InnerLengthsMayNotReachOutside) {
  Table inner, table;
  inner.set("k", int64_t{1});
  table.set("t", inner);
  std::string bytes = encoded(table);
  // The inner table's length, behind the outer one's 4, the name's 2 and the type's 1.
  bytes[10] = static_cast<char>(0x7f);
  Reader reader(as_bytes(bytes));
  read_table(reader);
  EXPECT_FALSE(reader.ok());
}

std::string nested(int depth) {
  Table table;
  for (int i = 0; i < depth; ++i) {
    Table outer;
    outer.set("t", std::move(table));
    table = std::move(outer);
  }
  return encoded(table);
}

TEST(Table, NestingIsLimited) {
  for (auto [depth, good] : {std::pair{kTableDepthMax - 1, true},
                             {kTableDepthMax, true},
                             {kTableDepthMax + 1, false},
                             {5000, false}}) {
    std::string bytes = nested(depth);
    Reader reader(as_bytes(bytes));
    read_table(reader);
    EXPECT_EQ(reader.ok(), good) << depth;
  }
}

// Values of no bytes ('V') in an array cost one byte on the wire and a Field in memory.
TEST(Table, EmptyValuesDoNotAmplify) {
  for (auto [count, good] : {std::pair{kTableFieldsMax - 2, true},
                             {kTableFieldsMax - 1, true},
                             {kTableFieldsMax, false},
                             {size_t{100'000}, false}}) {
    Table table;
    table.set("a", Array(count));
    std::string bytes = encoded(table);
    Reader reader(as_bytes(bytes));
    read_table(reader);
    EXPECT_EQ(reader.ok(), good) << count;
  }
}

TEST(Table, UnknownTypeIsRefused) {
  std::string bytes = encoded({});
  bytes = std::string("\0\0\0\4\1kZ\0", 8);
  Reader reader(as_bytes(bytes));
  read_table(reader);
  EXPECT_FALSE(reader.ok());
}

TEST(Properties, AllComeBack) {
  Properties p;
  p.content_type = "text/plain";
  p.content_encoding = "gzip";
  p.headers = every_type();
  p.delivery_mode = 2;
  p.priority = 9;
  p.correlation_id = "c";
  p.reply_to = "r";
  p.expiration = "1000";
  p.message_id = "m";
  p.timestamp = 1'700'000'000;
  p.type = "t";
  p.user_id = "guest";
  p.app_id = "a";
  p.cluster_id = "x";
  std::string bytes = p.encode();
  auto back = Properties::decode(as_bytes(bytes));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->encode(), bytes);
  EXPECT_TRUE(back->persistent());
  EXPECT_TRUE(is_persistent(as_bytes(bytes)));
}

TEST(Properties, PersistenceIsFoundBehindAnyProperties) {
  for (int mask = 0; mask < 8; ++mask) {
    for (int mode : {0, 1, 2}) {
      Properties p;
      if ((mask & 1) != 0) p.content_type = "a";
      if ((mask & 2) != 0) p.content_encoding = "b";
      if ((mask & 4) != 0) p.headers = every_type();
      if (mode != 0) p.delivery_mode = static_cast<uint8_t>(mode);
      EXPECT_EQ(is_persistent(as_bytes(p.encode())), mode == 2);
    }
  }
}

TEST(Properties, MalformedOnesAreRefused) {
  EXPECT_FALSE(Properties::decode({}));
  std::string trailing = Properties().encode() + "x";
  EXPECT_FALSE(Properties::decode(as_bytes(trailing)));
  std::string continued("\0\1\0\0", 4);
  EXPECT_FALSE(Properties::decode(as_bytes(continued)));
  std::string promised("\xff\xfc", 2);  // all properties announced, none there
  EXPECT_FALSE(Properties::decode(as_bytes(promised)));
}

}  // namespace
}  // namespace sluice::amqp
