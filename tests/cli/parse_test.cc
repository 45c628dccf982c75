#include "tools/cli/parse.h"

#include <gtest/gtest.h>

namespace sluice::cli {
namespace {

TEST(ParseSize, AcceptsBytesAndUnits) {
  EXPECT_EQ(parse_size_bytes("0"), 0u);
  EXPECT_EQ(parse_size_bytes("4096"), 4096u);
  EXPECT_EQ(parse_size_bytes("12B"), 12u);
  EXPECT_EQ(parse_size_bytes("64KiB"), 65536u);
  EXPECT_EQ(parse_size_bytes("64K"), 65536u);
  EXPECT_EQ(parse_size_bytes("64KB"), 64000u);
  EXPECT_EQ(parse_size_bytes("64MiB"), 67108864u);
  EXPECT_EQ(parse_size_bytes("1.5GiB"), 1610612736u);
  EXPECT_EQ(parse_size_bytes("0.25MB"), 250000u);
}

TEST(ParseSize, AcceptsTheLargestAndRefusesOneMore) {
  EXPECT_EQ(parse_size_bytes("18446744073709551615"), UINT64_MAX);
  EXPECT_FALSE(parse_size_bytes("18446744073709551616"));
  EXPECT_EQ(parse_size_bytes("17179869183GiB"), uint64_t{17179869183} << 30);
  EXPECT_FALSE(parse_size_bytes("17179869184GiB"));
  EXPECT_FALSE(parse_size_bytes("99999999999999999999GiB"));
}

TEST(ParseSize, RefusesGarbage) {
  for (const char* text : {"", " ", "MiB", "-1", "+1", "1 MiB", "1MIB", "1mb", "1.", ".5MiB", "1.5",
                           "1..5K", "0x10", "1e3", "1.0000000001K", "1T", "64MiB "}) {
    EXPECT_FALSE(parse_size_bytes(text)) << "'" << text << "'";
  }
}

TEST(ParseDuration, AcceptsUnits) {
  EXPECT_EQ(parse_duration_ms("100ms"), 100u);
  EXPECT_EQ(parse_duration_ms("5s"), 5000u);
  EXPECT_EQ(parse_duration_ms("1.5s"), 1500u);
  EXPECT_EQ(parse_duration_ms("2m"), 120000u);
  EXPECT_EQ(parse_duration_ms("1h"), 3600000u);
  EXPECT_EQ(parse_duration_ms("0s"), 0u);
}

TEST(ParseDuration, AcceptsTheLargestAndRefusesOneMore) {
  EXPECT_EQ(parse_duration_ms("18446744073709551615ms"), UINT64_MAX);
  EXPECT_FALSE(parse_duration_ms("18446744073709551616ms"));
  EXPECT_EQ(parse_duration_ms("18446744073709551s"), 18446744073709551000u);
  EXPECT_FALSE(parse_duration_ms("18446744073709552s"));
  // The whole part fits, the fraction does not.
  EXPECT_FALSE(parse_duration_ms("18446744073709551.999s"));
}

TEST(ParseDuration, RefusesGarbage) {
  for (const char* text : {"", "5", "s", "-5s", "5 s", "5sec", "0.5ms", "1.0005s", "infs", "5s5"}) {
    EXPECT_FALSE(parse_duration_ms(text)) << "'" << text << "'";
  }
}

TEST(ParseBackoff, AcceptsARangeAndAConstant) {
  const auto range = parse_backoff("100ms..30s");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->min_ms, 100u);
  EXPECT_EQ(range->max_ms, 30000u);
  const auto fraction = parse_backoff("1.5s..2.5s");
  ASSERT_TRUE(fraction);
  EXPECT_EQ(fraction->min_ms, 1500u);
  const auto constant = parse_backoff("2s");
  ASSERT_TRUE(constant);
  EXPECT_EQ(constant->min_ms, 2000u);
  EXPECT_EQ(constant->max_ms, 2000u);
}

TEST(ParseBackoff, RefusesGarbageAndSaysTheFormWanted) {
  for (const char* text : {"", "..", "1s..", "..1s", "1s...2s", "1..2", "1s-2s", "1s..2s..3s"}) {
    const auto backoff = parse_backoff(text);
    ASSERT_FALSE(backoff) << "'" << text << "'";
    EXPECT_NE(backoff.error().message.find("100ms..30s"), std::string::npos);
  }
  const auto reversed = parse_backoff("30s..100ms");
  ASSERT_FALSE(reversed);
  EXPECT_NE(reversed.error().message.find("100ms..30s"), std::string::npos);
}

TEST(ParseDestination, SplitsAtTheFirstSlash) {
  const auto plain = parse_destination("events/order.new");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->exchange, "events");
  EXPECT_EQ(plain->routing_key, "order.new");
  const auto queue = parse_destination("/hashes");
  ASSERT_TRUE(queue);
  EXPECT_EQ(queue->exchange, "");
  EXPECT_EQ(queue->routing_key, "hashes");
  const auto no_key = parse_destination("fanout/");
  ASSERT_TRUE(no_key);
  EXPECT_EQ(no_key->routing_key, "");
  const auto slashes = parse_destination("e/a/b");
  ASSERT_TRUE(slashes);
  EXPECT_EQ(slashes->routing_key, "a/b");
}

TEST(ParseDestination, RefusesWhatNamesNothing) {
  EXPECT_FALSE(parse_destination(""));
  EXPECT_FALSE(parse_destination("hashes"));
  EXPECT_FALSE(parse_destination("/"));
}

TEST(ParseKeyValue, SplitsAtTheFirstEqualsSign) {
  EXPECT_EQ(parse_key_value("a=b=c"), (std::pair<std::string, std::string>("a", "b=c")));
  EXPECT_EQ(parse_key_value("a="), (std::pair<std::string, std::string>("a", "")));
  EXPECT_FALSE(parse_key_value("=b"));
  EXPECT_FALSE(parse_key_value("a"));
  EXPECT_FALSE(parse_key_value(""));
}

TEST(ParseUrl, AcceptsWhatPeopleWrite) {
  const auto full = parse_url("amqp://us%40er:p%3Aw@broker.example:5673/%2F", "amqp", 5672);
  ASSERT_TRUE(full);
  EXPECT_EQ(full->user, "us@er");
  EXPECT_EQ(full->password, "p:w");
  EXPECT_EQ(full->host, "broker.example");
  EXPECT_EQ(full->port, 5673);
  EXPECT_EQ(full->path, "/%2F");
  const auto bare = parse_url("http://localhost", "http", 15672);
  ASSERT_TRUE(bare);
  EXPECT_EQ(bare->port, 15672);
  EXPECT_EQ(bare->user, "");
  const auto v6 = parse_url("amqp://guest:guest@[::1]:1/x", "amqp", 5672);
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->endpoint(), "[::1]:1");
}

TEST(ParseUrl, RefusesGarbageAndNeverRepeatsAPassword) {
  for (const char* text :
       {"", "amqp", "amqp://", "amqps://secret@h", "http://secret@h", "amqp://:secret@",
        "amqp://h:0", "amqp://h:65536", "amqp://h:secret", "amqp://[::1", "amqp://[::1]x",
        "amqp://%secret@h", "amqp://a:%zzsecret@h", "amqp://h:"}) {
    const auto url = parse_url(text, "amqp", 5672);
    ASSERT_FALSE(url) << "'" << text << "'";
    EXPECT_EQ(url.error().message.find("secret"), std::string::npos);
  }
}

TEST(PercentEncoding, RoundTripsEveryByte) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  EXPECT_EQ(percent_decode(percent_encode(bytes)), bytes);
  EXPECT_EQ(percent_encode("a/b c%\xC3\xA9"), "a%2Fb%20c%25%C3%A9");
  EXPECT_FALSE(percent_decode("%"));
  EXPECT_FALSE(percent_decode("%2"));
  EXPECT_FALSE(percent_decode("%g0"));
}

}  // namespace
}  // namespace sluice::cli
