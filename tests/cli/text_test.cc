#include "tools/cli/text.h"

#include <gtest/gtest.h>

namespace sluice::cli {
namespace {

TEST(Utf8, FollowsRfc3629) {
  for (const char* good : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                           "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(good));
  }
  for (const char* bad :
       {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE2\x82"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

TEST(Base64, GivesTheVectorsOfRfc4648) {
  const std::pair<const char*, const char*> vectors[] = {
      {"", ""},
      {"f", "Zg=="},
      {"fo", "Zm8="},
      {"foo", "Zm9v"},
      {"foob", "Zm9vYg=="},
      {"fooba", "Zm9vYmE="},
      {"foobar", "Zm9vYmFy"},
  };
  for (const auto& [bytes, text] : vectors) {
    EXPECT_EQ(base64_encode(bytes), text);
    EXPECT_EQ(base64_decode(text), bytes);
  }
}

TEST(Base64, RoundTripsEveryByte) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(255 - i);
  EXPECT_EQ(base64_decode(base64_encode(bytes)), bytes);
}

TEST(Base64, StopsAtGarbage) {
  EXPECT_EQ(base64_decode("Zm9v!Zm9v"), "foo");
  EXPECT_EQ(base64_decode("="), "");
}

TEST(Printable, LeavesNoControlForATerminal) {
  EXPECT_EQ(printable("\x1b[31mred\x07"), "\\x1b[31mred\\x07");
  EXPECT_EQ(printable("a\nb\tc"), "a\\x0ab\\x09c");
  EXPECT_EQ(printable("a\nb\tc\r", true), "a\nb\tc\\x0d");
  EXPECT_EQ(printable("\x7f"), "\\x7f");
  // A C1 control in UTF-8 is one as well.
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "\\xc2\\x9b31m");
  EXPECT_EQ(printable("\xC3\xA9\xFF"), "\xC3\xA9\\xff");
}

TEST(Human, WritesSizesAndDurations) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1 KiB");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(67108864), "64 MiB");
  EXPECT_EQ(human_duration_ms(999), "999 ms");
  EXPECT_EQ(human_duration_ms(5000), "5 s");
  EXPECT_EQ(human_duration_ms(1500), "1.5 s");
  EXPECT_EQ(human_duration_ms(60'000), "1 min");
  EXPECT_EQ(human_duration_ms(192'000), "3 min 12 s");
  EXPECT_EQ(human_duration_ms(2 * 86'400'000ull + 4 * 3'600'000), "2 d 4 h");
  EXPECT_EQ(counted(1, "message"), "1 message");
  EXPECT_EQ(counted(0, "message"), "0 messages");
}

TEST(Align, WidensColumnsAndSetsNumbersToTheRight) {
  EXPECT_EQ(align({"NAME", "READY"}, {{"licences", "7"}, {"q", "1234567"}}),
            "NAME        READY\n"
            "licences        7\n"
            "q         1234567\n");
}

TEST(Align, CountsCharactersNotBytes) {
  EXPECT_EQ(align({"N", "S"}, {{"\xC3\xA9\xC3\xA9", "x"}, {"abc", "y"}}),
            "N    S\n"
            "\xC3\xA9\xC3\xA9   x\n"
            "abc  y\n");
}

TEST(Align, LeavesNoSpaceAtTheEnd) {
  EXPECT_EQ(align({"A", "B"}, {{"x", ""}, {"y", "long"}}), "A  B\nx\ny  long\n");
}

}  // namespace
}  // namespace sluice::cli
