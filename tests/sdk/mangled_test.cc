#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "tests/sdk/frame_builder.h"

extern "C" {
#include "sdk/c/call.h"
}

// Frames that are not what they should be, for the C library's reader, under the sanitizers. Each
// lies in a heap block of just its size, so that a read of one byte too many is found.
namespace sluice::sdk_test {
namespace {

struct FreeIndex {
  void operator()(sluice_call* call) const {
    if (call->index != call->first_index) free(call->index);
    free(call->in.data);
    delete call;
  }
};
using Call = std::unique_ptr<sluice_call, FreeIndex>;

Call call_of(std::string_view frame) {
  Call call(new sluice_call{});
  call->in.data = static_cast<uint8_t*>(malloc(frame.size()));
  call->in.capacity = frame.size();
  memcpy(call->in.data, frame.data(), frame.size());
  call->frame_bytes = frame.size();
  call->index = call->first_index;
  call->index_capacity = kRecordsFirst;
  return call;
}

// Reads every byte that the accessors give; the sum keeps the compiler from leaving it out.
size_t sum_of(sluice_bytes bytes) {
  size_t sum = bytes.size;
  for (size_t i = 0; i < bytes.size; i++) sum += static_cast<uint8_t>(bytes.data[i]);
  return sum;
}

size_t read_everything(const sluice_call* call) {
  sluice_window window{};
  size_t sum = sum_of(sluice_state(call)) + sum_of(sluice_key(call)) + sluice_state_version(call) +
               sluice_in_window(call, &window) + window.number;
  for (uint32_t i = 0; i < sluice_record_count(call); i++) {
    const sluice_record record = sluice_record_at(call, i);
    EXPECT_NE(record.body.data, nullptr);
    for (const sluice_bytes& each :
         {record.body, record.exchange, record.routing_key, record.content_type,
          record.content_encoding, record.message_id, record.correlation_id, record.reply_to,
          record.type}) {
      sum += sum_of(each);
    }
    sluice_header header;
    for (size_t position = 0; sluice_next_header(&record, &position, &header);) {
      sum += sum_of(header.name) + sum_of(header.bytes) + static_cast<size_t>(header.integer);
    }
    sum += sluice_find_header(&record, "int", &header);
  }
  return sum;
}

// How many of the frames were still invocations.
struct Outcome {
  int accepted = 0;
  int refused = 0;
};

void offer(std::string_view frame, Outcome& outcome) {
  const Call call = call_of(frame);
  if (sluice_parse_(call.get()) == nullptr) {
    outcome.accepted++;
    read_everything(call.get());
  } else {
    outcome.refused++;
    EXPECT_EQ(sluice_record_count(call.get()), 0u);
  }
}

std::string rich_frame() {
  const std::string headers =
      header(0, "none", "") + header(1, "text", "value") + header(2, "bytes", "\xff") +
      header(3, "int", "12345678") + header(4, "float", "12345678") + header(5, "bool", "1") +
      header(6, "time", "12345678") + header(7, "table", "tt") + header(9, "new", "?");
  const std::string items = item(1, "state") + item(2, "12345678") + item(3, "key") +
                            item(4, "123456781234567812345678") + item(77, "later");
  return invocation(
      {record("body", item(17, "x") + item(24, "type") + headers), record("", headers), record("")},
      items);
}

uint64_t seed_of_the_run() {
  const char* const given = getenv("SLUICE_SEED");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "SLUICE_SEED=" << seed << std::endl;
  return seed;
}

int rounds() {
  const char* const given = getenv("SLUICE_ROUNDS");
  return given != nullptr ? atoi(given) : 40'000;
}

TEST(Mangled, TheFrameItselfIsGood) {
  const Call call = call_of(rich_frame());
  ASSERT_STREQ(sluice_parse_(call.get()), nullptr);
  EXPECT_EQ(sluice_record_count(call.get()), 3u);
  const sluice_record record = sluice_record_at(call.get(), 1);
  sluice_header header;
  ASSERT_TRUE(sluice_find_header(&record, "table", &header));
  EXPECT_EQ(header.bytes.size, 2u);
  EXPECT_FALSE(sluice_find_header(&record, "tabl", &header));
  EXPECT_GT(read_everything(call.get()), 0u);
}

TEST(Mangled, CutAnywhereItIsRefused) {
  const std::string frame = rich_frame();
  Outcome outcome;
  for (size_t size = 4; size < frame.size(); size++) offer(frame.substr(0, size), outcome);
  EXPECT_EQ(outcome.accepted, 0);
}

TEST(Mangled, EachByteChanged) {
  const std::string frame = rich_frame();
  Outcome outcome;
  for (size_t at = 4; at < frame.size(); at++) {
    for (int value : {0, 1, 2, 5, 16, 25, 127, 128, 254, 255}) {
      std::string mangled = frame;
      mangled[at] = static_cast<char>(value);
      offer(mangled, outcome);
    }
  }
  EXPECT_GT(outcome.accepted, 100);
  EXPECT_GT(outcome.refused, 100);
}

TEST(Mangled, ManyBytesChangedMovedAndLost) {
  std::mt19937_64 random(seed_of_the_run());
  const std::string frame = rich_frame();
  Outcome outcome;
  for (int round = rounds(); round > 0; round--) {
    std::string mangled = frame;
    for (uint64_t changes = 1 + random() % 6; changes > 0; changes--) {
      const size_t at = 4 + random() % (mangled.size() - 4);
      switch (random() % 4) {
        case 0:
          mangled[at] = static_cast<char>(random());
          break;
        case 1:
          mangled.erase(at, random() % 16);
          break;
        case 2:
          mangled.insert(at, frame.substr(random() % frame.size(), random() % 32));
          break;
        default:  // a length at its extremes
          if (at + 4 <= mangled.size()) {
            std::string length;
            put(length, random() % 2 ? UINT32_MAX - random() % 16 : random() % 64, 4);
            mangled.replace(at, 4, length);
          }
      }
      if (mangled.size() <= 8) break;
    }
    offer(mangled, outcome);
  }
  EXPECT_GT(outcome.refused, 0);
}

TEST(Records, OneMoreThanTheIndexHasFromTheStart) {
  for (size_t count : {kRecordsFirst - 1, kRecordsFirst + 0, kRecordsFirst + 1, 5000}) {
    const Call call = call_of(invocation(std::vector<std::string>(count, record("b"))));
    ASSERT_STREQ(sluice_parse_(call.get()), nullptr);
    EXPECT_EQ(sluice_record_count(call.get()), count);
    EXPECT_EQ(sluice_record_at(call.get(), static_cast<uint32_t>(count) - 1).attempt, 3u);
    EXPECT_EQ(sluice_record_at(call.get(), static_cast<uint32_t>(count)).attempt, 0u);
  }
}

TEST(Text, FollowsRfc3629) {
  for (std::string_view good : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(sluice_is_utf8_(good.data(), good.size()));
  }
  for (std::string_view bad :
       {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE2\x82"}) {
    EXPECT_FALSE(sluice_is_utf8_(bad.data(), bad.size()));
    std::string mended(bad);
    sluice_make_utf8_(mended.data(), mended.size());
    EXPECT_TRUE(sluice_is_utf8_(mended.data(), mended.size()));
  }
}

}  // namespace
}  // namespace sluice::sdk_test
