#include "broker/queue/bodies.h"

#include <gtest/gtest.h>

#include "tests/broker/fake_store.h"

namespace sluice::broker {
namespace {

using storage::kChunkBytes;

class BodiesTest : public testing::Test {
 protected:
  ~BodiesTest() override {
    journal_.reset();
    uv_run(&loop_, UV_RUN_DEFAULT);
    EXPECT_EQ(uv_loop_close(&loop_), 0);
  }

  storage::BodyPtr write(const std::string& bytes, size_t step) {
    BodyWriter writer = bodies_.writer(bytes.size());
    for (size_t at = 0; at < bytes.size(); at += step) {
      writer.add(amqp::as_bytes(std::string_view(bytes).substr(at, step)));
    }
    EXPECT_EQ(writer.left(), 0u);
    return writer.finish();
  }
  // One turn of the loop in which the disk does nothing, or ends a commit.
  void turn(bool finish) {
    journal_->turn_end();
    if (finish && !store_.waiting.empty()) store_.finish();
    uv_run(&loop_, UV_RUN_NOWAIT);
  }
  Expected<std::string> read_whole(const storage::BodyPtr& body) {
    std::optional<Expected<std::string>> read;
    bodies_.read_whole(body, [&](Expected<std::string> bytes) { read = std::move(bytes); });
    EXPECT_FALSE(read);  // on a later turn
    while (!read) turn(true);
    return *read;
  }

  struct Loop : uv_loop_t {
    Loop() { uv_loop_init(this); }
  };
  Loop loop_;
  FakeStore store_;
  std::unique_ptr<Journal> journal_ =
      std::make_unique<Journal>(store_, &loop_, [](const Error&) { FAIL(); });
  Bodies bodies_{store_, *journal_, &loop_};
};

std::string pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
  return bytes;
}

TEST_F(BodiesTest, WhatIsWrittenInAnyPiecesIsRead) {
  for (size_t size : {size_t{1}, kChunkBytes - 1, kChunkBytes, kChunkBytes + 1, 3 * kChunkBytes,
                      3 * kChunkBytes + 1}) {
    for (size_t step : {size_t{4088}, size_t{131064}, 2 * kChunkBytes + 5}) {
      std::string bytes = pattern(size);
      auto body = write(bytes, step);
      EXPECT_EQ(body->bytes(), size);
      auto read = read_whole(body);
      ASSERT_TRUE(read) << read.error().message;
      EXPECT_TRUE(*read == bytes) << size << " in steps of " << step;
    }
  }
}

TEST_F(BodiesTest, ReadingWaitsForTheCommit) {
  auto body = write(pattern(2 * kChunkBytes), kChunkBytes);
  std::optional<Expected<std::string>> read;
  bodies_.read(body, 1, 1, [&](Expected<std::string> bytes) { read = std::move(bytes); });
  while (store_.waiting.empty()) turn(false);
  EXPECT_FALSE(read);
  while (!read) turn(true);
  EXPECT_TRUE(*read);
}

TEST_F(BodiesTest, AMissingOrShortChunkIsCorrupt) {
  auto body = write(pattern(2 * kChunkBytes), kChunkBytes);
  ASSERT_TRUE(read_whole(body));
  store_.chunks[{body->id(), 1}].pop_back();
  auto read = read_whole(body);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kCorrupt);
  store_.chunks.erase({body->id(), 0});
  read = read_whole(body);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kCorrupt);
}

}  // namespace
}  // namespace sluice::broker
