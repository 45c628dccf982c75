#include "storage/record.h"

#include <random>
#include <thread>
#include <vector>

#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

const auto held = std::make_shared<HeldBodies>();

TEST(RecordTest, EmptyPartsComeBackEmpty) {
  auto record = Record::make({});
  auto back = Record::from_bytes(record->bytes(), *held);
  ASSERT_TRUE(back);
  EXPECT_TRUE((*back)->body().empty());
  EXPECT_TRUE((*back)->properties().empty());
  EXPECT_EQ((*back)->exchange(), "");
}

TEST(RecordTest, WhatOneThreadMakesAndAnotherFreesIsNoLongerCounted) {
  RecordPtr other = record_of(std::string(1 << 20, 'x'));  // so that the sum is not 0, its least
  size_t before = Record::resident_bytes();
  std::vector<RecordPtr> records;
  std::thread([&] {
    for (int i = 0; i < 1001; ++i) records.push_back(record_of(std::string(300, 'x')));
  }).join();
  EXPECT_GE(Record::resident_bytes(), before + 1001 * 300);
  // Each of these frees less than a piece.
  while (!records.empty()) std::thread([&] { records.resize(records.size() - 7); }).join();
  EXPECT_EQ(Record::resident_bytes(), before);
}

TEST(RecordTest, NoBytesAreCorrupt) {
  auto record = Record::from_bytes({}, *held);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, Code::kCorrupt);
}

// Under the address sanitizer this shows that reading what passed the verifier stays inside.
TEST(RecordTest, DamagedBytesAreCorruptOrHarmless) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  auto record = record_of(std::string(300, 'x'));
  size_t refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<uint8_t> bytes(record->bytes().begin(), record->bytes().end());
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    for (uint64_t flips = random() % 4; flips > 0 && !bytes.empty(); --flips) {
      bytes[random() % std::min<size_t>(bytes.size(), 64)] = static_cast<uint8_t>(random());
    }
    auto back = Record::from_bytes(bytes, *held);
    if (!back) {
      EXPECT_EQ(back.error().code, Code::kCorrupt);
      ++refused;
      continue;
    }
    size_t sum = (*back)->exchange().size() + (*back)->routing_key().size();
    for (uint8_t byte : (*back)->body()) sum += byte;
    for (uint8_t byte : (*back)->properties()) sum += byte;
    EXPECT_GE(sum, 0u);
  }
  EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace sluice::storage
