#include <gtest/gtest.h>

#include "broker/dispatch/function.h"
#include "broker/dispatch/limits.h"

namespace sluice::broker {
namespace {

using namespace dispatch;

// The record's first eleven fields, as they were written before there were more: a table may end
// early, and then has what the schema says.
std::string record_of_old() {
  flatbuffers::FlatBufferBuilder builder;
  auto name = builder.CreateString("old");
  auto sha256 = builder.CreateString("abc");
  auto image_name = builder.CreateString("image");
  std::vector<std::string> list = {"a"};
  auto args = builder.CreateVectorOfStrings(list);
  auto env = builder.CreateVectorOfStrings(list);
  auto start = builder.StartTable();
  builder.AddOffset(4, name);
  builder.AddElement<uint32_t>(6, 3, 0);
  builder.AddElement<uint64_t>(8, 17, 0);
  builder.AddOffset(10, sha256);
  builder.AddOffset(12, image_name);
  builder.AddElement<uint64_t>(14, 1000, 0);
  builder.AddOffset(16, args);
  builder.AddOffset(18, env);
  builder.AddElement<uint64_t>(20, 32 << 20, 0);
  builder.AddElement<uint32_t>(22, 1500, 0);
  builder.AddElement<int64_t>(24, 99, 0);
  builder.Finish(flatbuffers::Offset<void>(builder.EndTable(start)));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

TEST(FunctionRecord, AnOldOneIsReadWithTheDefaults) {
  auto read = read_record(record_of_old());
  ASSERT_TRUE(read) << read.error().message;
  const FunctionVersion& version = **read;
  EXPECT_EQ(version.name, "old");
  EXPECT_EQ(version.version, 3u);
  EXPECT_EQ(version.id, 17u);
  EXPECT_EQ(version.image_sha256, "abc");
  EXPECT_EQ(version.image_bytes, 1000u);
  EXPECT_EQ(version.created_at_ms, 99);
  EXPECT_EQ(version.config.args, std::vector<std::string>{"a"});
  const FunctionLimits& limits = version.config.limits;
  EXPECT_EQ(limits.memory_bytes, 32u << 20);
  EXPECT_EQ(limits.timeout_ms, 1500u);
  const FunctionLimits defaults;
  EXPECT_EQ(limits.cpu_ms, defaults.cpu_ms);
  EXPECT_EQ(limits.output_bytes, defaults.output_bytes);
  EXPECT_EQ(limits.log_bytes, defaults.log_bytes);
  EXPECT_EQ(limits.open_files, defaults.open_files);
  EXPECT_EQ(limits.threads, defaults.threads);
  EXPECT_EQ(limits.tmpfs_bytes, defaults.tmpfs_bytes);
  EXPECT_EQ(version.config.concurrency, 0u);
  EXPECT_EQ(version.config.owner, "guest");
  EXPECT_EQ(version.rootfs_sha256, "");
  EXPECT_EQ(version.protocol, schema::FunctionProtocol::unknown);
}

TEST(FunctionRecord, EveryFieldMakesTheRoundTrip) {
  FunctionVersion version;
  version.id = 4;
  version.name = "f";
  version.version = 2;
  version.config = {.image_name = "/usr/bin/x",
                    .args = {"1", ""},
                    .env = {"A=B"},
                    .limits = {5u << 20, 2, 3, 17, 5, 6, 7, 8},
                    .concurrency = 9,
                    .image_path = "usr/bin/x",
                    .owner = "somebody"};
  version.rootfs_sha256 = "def";
  version.rootfs_bytes = 10;
  version.created_at_ms = 11;
  version.protocol = schema::FunctionProtocol::frames;
  auto read = read_record(write_record(version));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(write_record(**read), write_record(version));
  EXPECT_EQ((*read)->config.limits.tmpfs_bytes, 8u);
  EXPECT_EQ((*read)->config.limits.threads, 7u);
  EXPECT_EQ((*read)->config.image_path, "usr/bin/x");
  EXPECT_EQ((*read)->config.owner, "somebody");
  EXPECT_EQ((*read)->rootfs_bytes, 10u);
  EXPECT_TRUE((*read)->speaks_protocol());
}

TEST(FunctionRecord, ADamagedOneIsRefused) {
  std::string record = record_of_old();
  record.resize(record.size() / 2);
  EXPECT_FALSE(read_record(record));
}

std::string refusal(const FunctionConfig& config, const FunctionFiles& files = {"image", ""}) {
  auto checked = check("f", config, files);
  return checked ? "" : checked.error().message;
}

// Each limit at its ends and one beyond; the message names it.
TEST(FunctionConfig, EachLimitHasItsRange) {
  auto expect_range = [](const char* name, auto field, uint64_t min, uint64_t max) {
    auto with = [&](uint64_t value) {
      FunctionConfig config{.image_name = "i"};
      auto& limit = field(config);
      limit = static_cast<std::remove_reference_t<decltype(limit)>>(value);
      return refusal(config);
    };
    for (uint64_t good : {min, min + 1, max - 1, max}) EXPECT_EQ(with(good), "") << name << good;
    EXPECT_NE(with(max + 1).find(name), std::string::npos) << name;
    if (min > 0) {
      EXPECT_NE(with(min - 1).find(name), std::string::npos) << name;
    }
  };
  using C = FunctionConfig;
  expect_range(
      "memory_bytes", [](C & c) -> auto& { return c.limits.memory_bytes; }, kMemoryMinBytes,
      kMemoryMaxBytes);
  expect_range(
      "timeout_ms", [](C & c) -> auto& { return c.limits.timeout_ms; }, 1, kTimeoutMaxMs);
  expect_range(
      "cpu_ms", [](C & c) -> auto& { return c.limits.cpu_ms; }, 0, kTimeoutMaxMs);
  expect_range(
      "output_bytes", [](C & c) -> auto& { return c.limits.output_bytes; }, kOutputMinBytes,
      kOutputMaxBytes);
  expect_range(
      "log_bytes", [](C & c) -> auto& { return c.limits.log_bytes; }, 0, kLogMaxBytes);
  expect_range(
      "open_files", [](C & c) -> auto& { return c.limits.open_files; }, kOpenFilesMin,
      kOpenFilesMax);
  expect_range(
      "threads", [](C & c) -> auto& { return c.limits.threads; }, 1, kThreadsMax);
  expect_range(
      "tmpfs_bytes", [](C & c) -> auto& { return c.limits.tmpfs_bytes; }, 0, kTmpfsMaxBytes);
  expect_range(
      "concurrency", [](C & c) -> auto& { return c.concurrency; }, 0, kConcurrencyMax);
}

TEST(FunctionConfig, FilesAndTheirPath) {
  FunctionConfig plain{.image_name = "i"};
  FunctionConfig inside{.image_name = "i", .image_path = "bin/x"};
  EXPECT_EQ(refusal(plain, {"image", ""}), "");
  EXPECT_EQ(refusal(plain, {"image", "tar"}), "");
  EXPECT_EQ(refusal(inside, {"", "tar"}), "");
  EXPECT_NE(refusal(plain, {"", ""}).find("empty"), std::string::npos);
  EXPECT_NE(refusal(plain, {"", "tar"}).find("image_path"), std::string::npos);
  EXPECT_NE(refusal(inside, {"image", "tar"}).find("image_path"), std::string::npos);
  inside.image_path = std::string("a\0b", 3);
  EXPECT_NE(refusal(inside, {"", "tar"}).find("NUL"), std::string::npos);
  for (size_t length : {kPathMaxBytes - 1, kPathMaxBytes, kPathMaxBytes + 1}) {
    inside.image_path = std::string(length, 'p');
    EXPECT_EQ(refusal(inside, {"", "tar"}).empty(), length <= kPathMaxBytes);
  }
}

TEST(FunctionConfig, FilesHaveASize) {
  FunctionConfig plain{.image_name = "i"};
  FunctionConfig inside{.image_name = "i", .image_path = "bin/x"};
  for (int past : {-1, 0, 1}) {
    EXPECT_EQ(refusal(plain, {std::string(kImageMaxBytes + past, 'i'), ""}).empty(), past <= 0);
    EXPECT_EQ(refusal(inside, {"", std::string(kRootfsMaxBytes + past, 'r')}).empty(), past <= 0);
  }
}

}  // namespace
}  // namespace sluice::broker
