#include "broker/amqp/frame.h"

#include <gtest/gtest.h>

namespace sluice::amqp {
namespace {

TEST(Frame, MethodsComeBack) {
  QueueDeclare declare;
  declare.queue = "orders";
  declare.durable = true;
  declare.no_wait = true;
  declare.arguments.set("x-queue-type", std::string("quorum"));
  std::string out;
  write_method(out, 7, declare);
  Frame frame;
  size_t consumed = 0;
  ASSERT_EQ(parse_frame(as_bytes(out), kFrameMaxBytes, frame, consumed), FrameStatus::kWhole);
  EXPECT_EQ(consumed, out.size());
  EXPECT_EQ(frame.channel, 7);
  Reader reader(frame.payload);
  EXPECT_EQ(reader.u32(), QueueDeclare::kId);
  QueueDeclare back;
  ASSERT_TRUE(decode(reader, back));
  EXPECT_EQ(back.queue, "orders");
  EXPECT_TRUE(back.durable && back.no_wait && !back.passive && !back.exclusive);
  EXPECT_EQ(back.arguments, declare.arguments);
}

TEST(Frame, IncompleteUntilItsLastByte) {
  std::string out;
  write_heartbeat(out);
  for (size_t length = 0; length < out.size(); ++length) {
    Frame frame;
    size_t consumed = 0;
    EXPECT_EQ(parse_frame(as_bytes(out).first(length), kFrameMaxBytes, frame, consumed),
              FrameStatus::kIncomplete);
  }
}

std::string body_frame(size_t payload_bytes) {
  std::string out;
  {
    Writer writer(out);
    writer.u8(3);
    writer.u16(1);
    writer.long_string(as_bytes(std::string(payload_bytes, 'x')));
    writer.u8(kFrameEnd);
  }
  return out;
}

TEST(Frame, SizeIsCheckedAtTheLimitBeforeTheRestIsWaitedFor) {
  constexpr uint32_t kMax = 4096;
  for (auto [bytes, status] : {std::pair{kMax - 9, FrameStatus::kWhole},
                               {kMax - 8, FrameStatus::kWhole},
                               {kMax - 7, FrameStatus::kTooLarge}}) {
    std::string out = body_frame(bytes);
    Frame frame;
    size_t consumed = 0;
    EXPECT_EQ(parse_frame(as_bytes(out), kMax, frame, consumed), status) << bytes;
  }
  std::string huge("\x03\x00\x01\xff\xff\xff\xff", 7);
  Frame frame;
  size_t consumed = 0;
  EXPECT_EQ(parse_frame(as_bytes(huge), kMax, frame, consumed), FrameStatus::kTooLarge);
}

TEST(Frame, WrongEndIsSeen) {
  std::string out = body_frame(10);
  out.back() = 0;
  Frame frame;
  size_t consumed = 0;
  EXPECT_EQ(parse_frame(as_bytes(out), kFrameMaxBytes, frame, consumed), FrameStatus::kBadEnd);
}

TEST(Frame, ContentIsSplitAtFrameMax) {
  std::string body(10000, 'b');
  std::string out;
  write_content_header(out, 1, as_bytes(std::string_view("\0\0", 2)), body.size());
  write_content_body(out, 1, as_bytes(body), 4096);
  std::string got;
  size_t at = 0;
  int frames = 0;
  while (at < out.size()) {
    Frame frame;
    size_t consumed = 0;
    ASSERT_EQ(parse_frame(as_bytes(out).subspan(at), 4096, frame, consumed), FrameStatus::kWhole);
    EXPECT_LE(consumed, 4096u);
    if (frames++ > 0) got += as_text(frame.payload);
    at += consumed;
  }
  EXPECT_EQ(frames, 4);
  EXPECT_EQ(got, body);
}

}  // namespace
}  // namespace sluice::amqp
