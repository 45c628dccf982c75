#include "broker/dispatch/protocol.h"

#include <bit>
#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "broker/amqp/limits.h"
#include "broker/dispatch/limits.h"
#include "tests/broker/protocol_reader.h"

namespace sluice::broker::protocol {
namespace {

using namespace dispatch;

std::string encoded(const Invocation& invocation) {
  std::string frame(encoded_size(invocation), '?');
  encode(invocation, {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
  return frame;
}

// An answer as a program would write it.
class AnswerWriter {
 public:
  AnswerWriter& item(uint8_t tag, std::string_view content) {
    body_ += made_item(tag, content);
    return *this;
  }
  AnswerWriter& numbered(uint8_t tag, uint32_t number, std::string_view rest) {
    return item(tag, little(number) + std::string(rest));
  }
  std::string frame(uint16_t version = 1, uint16_t flags = 0) const {
    std::string content = little(version) + little(flags) + body_;
    return little(static_cast<uint32_t>(content.size())) + content;
  }

 private:
  std::string body_;
};

std::string header_item(uint8_t kind, std::string_view name, std::string_view value) {
  return made_item(25, std::string(1, static_cast<char>(kind)) +
                           little(static_cast<uint16_t>(name.size())) + std::string(name) +
                           std::string(value));
}

std::string error_of(const std::string& frame, uint32_t records = 1) {
  auto answer = decode(amqp::as_bytes(frame), records);
  return answer ? "" : answer.error().message;
}

TEST(ProtocolEncode, AWholeInvocation) {
  amqp::Properties properties;
  properties.content_type = "text/plain";
  properties.reply_to = "back";
  properties.message_id = "m-1";
  properties.correlation_id = "c-1";
  properties.type = "t";
  properties.priority = 3;
  properties.timestamp = 7;
  properties.expiration = "1000";
  std::string stored = properties.encode();
  std::vector<Record> records = {{.id = 9,
                                  .published_at_ms = 1234,
                                  .attempt = 2,
                                  .redelivered = true,
                                  .body = amqp::as_bytes("hello"),
                                  .exchange = "x",
                                  .routing_key = "k",
                                  .properties = amqp::as_bytes(stored)},
                                 {.id = 10, .body = amqp::as_bytes("")}};
  ReadInvocation read = read_invocation(encoded({.timeout_ms = 5000,
                                                 .last_of_window = true,
                                                 .state = amqp::as_bytes("state"),
                                                 .state_version = 4,
                                                 .key = "key",
                                                 .window = Window{1, 2, 3},
                                                 .records = records}));
  EXPECT_EQ(read.version, 1);
  EXPECT_EQ(read.flags, 1);
  EXPECT_EQ(read.deadline_ns, 0u);
  EXPECT_EQ(read.timeout_ms, 5000u);
  EXPECT_EQ(read.record_count, 2u);
  ASSERT_EQ(read.items.size(), 6u);
  EXPECT_EQ(read.items[0], (Item{1, "state"}));
  EXPECT_EQ(read.items[1], (Item{2, little(uint64_t{4})}));
  EXPECT_EQ(read.items[2], (Item{3, "key"}));
  EXPECT_EQ(read.items[3],
            (Item{4, little(uint64_t{1}) + little(uint64_t{2}) + little(uint64_t{3})}));
  EXPECT_EQ(read.items[4].tag, 5);
  const ReadRecord& first = read.records[0];
  EXPECT_EQ(first.id, 9u);
  EXPECT_EQ(first.published_ms, 1234u);
  EXPECT_EQ(first.attempt, 2u);
  EXPECT_EQ(first.flags, 1u);
  EXPECT_EQ(first.items, (std::vector<Item>{{16, "hello"},
                                            {17, "x"},
                                            {18, "k"},
                                            {19, "text/plain"},
                                            {21, "m-1"},
                                            {22, "c-1"},
                                            {23, "back"},
                                            {24, "t"}}));
  EXPECT_EQ(read.records[1].items, (std::vector<Item>{{16, ""}, {17, ""}, {18, ""}}));
}

std::vector<Item> headers_of(const amqp::Table& table) {
  amqp::Properties properties;
  properties.headers = table;
  std::string stored = properties.encode();
  Record record{.properties = amqp::as_bytes(stored)};
  auto read = read_invocation(encoded({.records = {&record, 1}}));
  auto& items = read.records[0].items;
  items.erase(items.begin(), items.begin() + 3);
  return items;
}

TEST(ProtocolEncode, EveryTypeOfHeader) {
  auto integer = [](int64_t value) { return little(value); };
  auto real = [](double value) { return little(std::bit_cast<uint64_t>(value)); };
  struct Case {
    amqp::Field field;
    uint8_t kind;
    std::string value;
  };
  const std::vector<Case> cases = {
      {{}, 0, ""},
      {std::string("text"), 1, "text"},
      {std::string("\xff"), 2, "\xff"},  // is said to be text, and is not
      {amqp::ByteArray{"\x01\x02"}, 2, "\x01\x02"},
      {int8_t{-1}, 3, integer(-1)},
      {uint8_t{255}, 3, integer(255)},
      {int16_t{-2}, 3, integer(-2)},
      {uint16_t{65535}, 3, integer(65535)},
      {int32_t{-3}, 3, integer(-3)},
      {uint32_t{4000000000}, 3, integer(4000000000)},
      {int64_t{INT64_MIN}, 3, integer(INT64_MIN)},
      {uint64_t{5}, 3, integer(5)},
      {uint64_t{UINT64_MAX}, 1, "18446744073709551615"},
      {1.5f, 4, real(1.5)},
      {-2.25, 4, real(-2.25)},
      {amqp::Decimal{2, 314}, 4, real(3.14)},
      {true, 5, "\x01"},
      {false, 5, std::string(1, '\0')},
      {amqp::Timestamp{1700000000}, 6, integer(1700000000)},
      {amqp::Array{int32_t{1}}, 7, std::string("A\0\0\0\5I\0\0\0\1", 10)},
      {amqp::Table{{{"a", true}}}, 7, std::string("F\0\0\0\4\1at\1", 9)},
  };
  for (const Case& one : cases) {
    auto items = headers_of({{{"name", one.field}}});
    ASSERT_EQ(items.size(), 1u);
    EXPECT_EQ(made_item(items[0].tag, items[0].content), header_item(one.kind, "name", one.value));
  }
  amqp::Table all;
  for (const Case& one : cases) all.fields.emplace_back("n", one.field);
  EXPECT_EQ(headers_of(all).size(), cases.size());
}

TEST(ProtocolEncode, MalformedPropertiesCountAsNone) {
  amqp::Properties properties;
  properties.headers = amqp::Table{{{"a", int32_t{1}}}};
  properties.type = "t";
  std::string whole = properties.encode();
  for (size_t length = 0; length < whole.size(); ++length) {
    Record record{.properties = amqp::as_bytes(std::string_view(whole).substr(0, length))};
    auto read = read_invocation(encoded({.records = {&record, 1}}));
    EXPECT_EQ(read.records[0].items.size(), 3u) << length;
  }
}

TEST(ProtocolEncode, TheBoundHoldsWhateverTheHeadersAre) {
  amqp::Properties properties;
  for (int i = 0; i < 1000; ++i) {
    if (!properties.headers) properties.headers.emplace();
    properties.headers->fields.emplace_back("", int8_t{1});
  }
  std::string stored = properties.encode();
  Record record{.body = amqp::as_bytes("body"), .properties = amqp::as_bytes(stored)};
  EXPECT_LE(encoded_size({.records = {&record, 1}}),
            record_size_bound(4, stored.size()) + kInvocationOverheadBytes);
}

TEST(ProtocolDecode, AWholeAnswer) {
  std::string output = made_item(16, "body") + made_item(17, "x") + made_item(18, "k") +
                       made_item(19, "text/plain") + header_item(1, "h", "v") +
                       made_item(38, little(uint64_t{1500}));
  std::string frame = AnswerWriter()
                          .numbered(33, 1, "bad record")
                          .item(34, "new state")
                          .numbered(35, 0, "one")
                          .numbered(35, 0xffffffff, "all")
                          .item(36, output)
                          .item(37, "\x02hot")
                          .frame(1, 1);
  auto answer = decode(amqp::as_bytes(frame), 2);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_TRUE(answer->drop_state);
  EXPECT_FALSE(answer->failure);
  ASSERT_EQ(answer->failed.size(), 1u);
  EXPECT_EQ(answer->failed[0].record, 1u);
  EXPECT_EQ(answer->failed[0].message, "bad record");
  EXPECT_EQ(amqp::as_text(*answer->state), "new state");
  ASSERT_EQ(answer->results.size(), 2u);
  EXPECT_EQ(answer->results[0].record, 0u);
  EXPECT_EQ(answer->results[1].record, std::nullopt);
  EXPECT_EQ(amqp::as_text(answer->results[1].payload), "all");
  ASSERT_EQ(answer->logs.size(), 1u);
  EXPECT_EQ(answer->logs[0].level, 2);
  EXPECT_EQ(answer->logs[0].text, "hot");
  ASSERT_EQ(answer->outputs.size(), 1u);
  OutputMessage message = read_output(answer->outputs[0]);
  EXPECT_EQ(message.exchange, "x");
  EXPECT_EQ(message.routing_key, "k");
  EXPECT_EQ(amqp::as_text(message.body), "body");
  EXPECT_EQ(message.properties.content_type, "text/plain");
  EXPECT_EQ(*message.properties.headers->find("h")->text(), "v");
  EXPECT_EQ(message.delay_ms, 1500u);
  auto by_record = answer->failures_by_record(2);
  EXPECT_EQ(by_record[0], nullptr);
  EXPECT_EQ(*by_record[1], "bad record");
}

TEST(ProtocolDecode, NothingIsASuccess) {
  auto answer = decode(amqp::as_bytes(AnswerWriter().frame()), 1);
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->failures_by_record(1).empty());
}

// What a header was in a record comes back the same from an output.
TEST(ProtocolDecode, HeadersMakeTheRoundTrip) {
  const amqp::Table table = {{{"none", {}},
                              {"text", std::string("t\xc3\xa4xt")},
                              {"bytes", amqp::ByteArray{"\xff"}},
                              {"integer", int64_t{-5}},
                              {"float", 0.5},
                              {"truth", true},
                              {"time", amqp::Timestamp{17}},
                              {"list", amqp::Array{int32_t{1}, std::string("a")}},
                              {"table", amqp::Table{{{"in", amqp::Table{{{"deep", false}}}}}}}}};
  std::string items;
  for (const Item& item : headers_of(table)) items += made_item(item.tag, item.content);
  auto frame = AnswerWriter().item(36, items).frame();
  auto answer = decode(amqp::as_bytes(frame), 1);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(*read_output(answer->outputs[0]).properties.headers, table);
}

TEST(ProtocolDecode, LaterVersionsMayHaveMore) {
  std::string frame =
      AnswerWriter()
          .item(200, "unknown")
          .item(36, made_item(99, "?") + made_item(38, little(uint64_t{1}) + "more"))
          .item(36, header_item(3, "n", little(int64_t{1}) + "more"))
          .frame(1, 0x8000);
  auto answer = decode(amqp::as_bytes(frame), 1);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(read_output(answer->outputs[0]).delay_ms, 1u);
}

TEST(ProtocolDecode, EachBrokenRuleIsNamed) {
  struct Case {
    std::string frame, says;
  };
  const std::string long_name(256, 'n');
  const std::string nested_too_deep = [] {
    std::string value = "V";
    for (int i = 0; i < amqp::kTableDepthMax + 1; ++i) {
      uint32_t length = __builtin_bswap32(static_cast<uint32_t>(value.size()));
      value = "A" + little(length) + value;
    }
    return value;
  }();
  auto output = [](const std::string& items) { return AnswerWriter().item(36, items).frame(); };
  const Case cases[] = {
      {"", "without an answer"},
      {"abc", "without an answer"},
      {little(uint32_t{2}) + "ab", "no header"},
      {AnswerWriter().frame() + "x", "has 5"},
      {AnswerWriter().frame(2), "version 2"},
      {AnswerWriter().numbered(33, 1, "m").frame(), "record 1, the call had 1"},
      {AnswerWriter().item(33, "abc").frame(), "no number"},
      {AnswerWriter().numbered(33, 0, "\xff").frame(), "UTF-8"},
      {AnswerWriter().numbered(35, 1, "m").frame(), "record 1"},
      {AnswerWriter().numbered(35, 0xfffffffe, "m").frame(), "record 4294967294"},
      {AnswerWriter().item(35, "abc").frame(), "no record"},
      {AnswerWriter().item(32, "\xc0\x80").frame(), "UTF-8"},
      {AnswerWriter().item(32, "a").item(32, "b").frame(), "two failures"},
      {AnswerWriter().item(34, "a").item(34, "b").frame(), "two states"},
      {AnswerWriter().item(37, "").frame(), "level"},
      {AnswerWriter().item(37, "\x04x").frame(), "level"},
      {AnswerWriter().item(37, "\x01\xff").frame(), "UTF-8"},
      {output(made_item(17, long_name)), "exchange"},
      {output(made_item(18, "\xff")), "routing key"},
      {output(made_item(24, long_name)), "type"},
      {output(header_item(1, long_name, "")), "header"},
      {output(header_item(1, "\xff", "")), "header"},
      {output(header_item(1, "n", "\xff")), "header"},
      {output(header_item(3, "n", "1234567")), "header"},
      {output(header_item(5, "n", "")), "header"},
      {output(header_item(8, "n", "")), "header"},
      {output(header_item(7, "n", "F")), "header"},
      {output(header_item(7, "n", "I1234")), "header"},
      {output(header_item(7, "n", nested_too_deep)), "header"},
      {output(made_item(38, "1234567")), "delay"},
      {output(made_item(38, little(kDelayMaxMs + 1))), "delay"},
      {output("\x10\x05"), "longer than the output"},
  };
  for (const Case& one : cases) {
    EXPECT_NE(error_of(one.frame).find(one.says), std::string::npos)
        << one.says << ": " << error_of(one.frame);
  }
}

TEST(ProtocolDecode, TheNumberOfItemsIsLimited) {
  auto frame_of = [](size_t logs, size_t in_output) {
    AnswerWriter writer;
    for (size_t i = 0; i < logs; ++i) writer.item(37, "\x01");
    std::string items;
    for (size_t i = 0; i < in_output; ++i) items += made_item(99, "");
    return writer.item(36, items).frame();
  };
  EXPECT_EQ(error_of(frame_of(kAnswerItemsMax - 2, 0)), "");
  EXPECT_EQ(error_of(frame_of(kAnswerItemsMax - 1, 0)), "");
  EXPECT_NE(error_of(frame_of(kAnswerItemsMax, 0)), "");
  EXPECT_EQ(error_of(frame_of(0, kAnswerItemsMax - 1)), "");
  EXPECT_NE(error_of(frame_of(0, kAnswerItemsMax)), "");
}

TEST(ProtocolDecode, TheNumberOfAnOutputsHeadersIsLimited) {
  auto frame_of = [](size_t count) {
    std::string items;
    for (size_t i = 0; i < count; ++i) items += header_item(0, "", "");
    return AnswerWriter().item(36, items).frame();
  };
  EXPECT_EQ(error_of(frame_of(amqp::kTableFieldsMax - 1)), "");
  EXPECT_EQ(error_of(frame_of(amqp::kTableFieldsMax)), "");
  EXPECT_NE(error_of(frame_of(amqp::kTableFieldsMax + 1)), "");
}

TEST(ProtocolDecode, TextsOfTheLimitAndDelaysOfTheLimit) {
  EXPECT_EQ(error_of(AnswerWriter().item(36, made_item(18, std::string(255, 'k'))).frame()), "");
  EXPECT_EQ(error_of(AnswerWriter().item(36, made_item(38, little(kDelayMaxMs))).frame()), "");
}

const std::string& sample() {
  static const std::string frame =
      AnswerWriter()
          .numbered(33, 1, "bad")
          .item(34, "state")
          .numbered(35, 0, "result")
          .item(36, made_item(16, "b") + made_item(17, "x") +
                        header_item(7, "t", std::string("F\0\0\0\4\1at\1", 9)) +
                        header_item(1, "h", "v") + made_item(38, little(uint64_t{1})))
          .item(37, "\x01line")
          .frame();
  return frame;
}

TEST(ProtocolDecode, TruncatedAtEveryByte) {
  const std::string& whole = sample();
  ASSERT_EQ(error_of(whole, 2), "");
  for (size_t length = 0; length < whole.size(); ++length) {
    // With the length as it was, and with one that fits what is there.
    std::string cut = whole.substr(0, length);
    EXPECT_NE(error_of(cut, 2), "") << length;
    if (length < 8) continue;
    cut.replace(0, 4, little(static_cast<uint32_t>(length - 4)));
    std::string exact(cut.data(), cut.size());  // of its own size, for the sanitizer
    decode(amqp::as_bytes(exact), 2);
  }
}

TEST(ProtocolDecode, WhateverTheBytesAre) {
  const char* given = std::getenv("SLUICE_SEED");
  uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  size_t accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string frame = sample();
    for (uint64_t changes = random() % 4 + 1; changes > 0; --changes) {
      size_t at = random() % frame.size();
      switch (random() % 4) {
        case 0:
          frame[at] = static_cast<char>(random());
          break;
        case 1:
          frame.erase(at, random() % 8);
          break;
        case 2:
          frame.insert(at, std::string(random() % 8, static_cast<char>(random())));
          break;
        default:
          frame[at] = static_cast<char>(frame[at] ^ (1 << random() % 8));
      }
      if (frame.size() < 8) frame = sample();
    }
    frame.replace(0, 4, little(static_cast<uint32_t>(frame.size() - 4)));
    auto answer = decode(amqp::as_bytes(frame), 2);
    if (!answer) continue;
    ++accepted;
    for (const auto& output : answer->outputs) read_output(output);
    EXPECT_LE(answer->failed.size() + answer->logs.size() + answer->results.size() +
                  answer->outputs.size(),
              frame.size() / 5);
  }
  EXPECT_GT(accepted, 0u);
}

TEST(ProtocolText, CutsWhereACharacterEnds) {
  EXPECT_EQ(cut_text("abc", 3), "abc");
  EXPECT_EQ(cut_text("abc", 2), "ab");
  EXPECT_EQ(cut_text("a\xc3\xa4z", 2), "a");
  EXPECT_EQ(cut_text("a\xc3\xa4z", 3), "a\xc3\xa4");
}

}  // namespace
}  // namespace sluice::broker::protocol
