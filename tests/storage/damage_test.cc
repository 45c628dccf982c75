// Damage to tables, blob files, the manifest and CURRENT, at rest and under a running store: it is
// told, or it hit nothing that matters. Never a message that is not the one that was published, and
// never one missing without a word. (Write-ahead logs: wal_check_test.cc.)

#include <algorithm>
#include <fstream>
#include <random>

#include "storage/limits.h"
#include "tests/storage/crash_support.h"

namespace sluice::storage {
namespace {

namespace fs = std::filesystem;

constexpr QueueId kQueues = 3;
constexpr Sequence kMessages = 400;

std::string body_for(QueueId queue, Sequence sequence) {
  std::mt19937_64 random(queue * 1'000'003 + sequence);
  std::string body(sequence % 40 == 0 ? kBlobBytesMin + 1000 : random() % 600, '\0');
  for (char& byte : body) byte = static_cast<char>(random());
  return body;
}

// Whether all that was committed is there. An error where it is not; fails the test where anything
// is wrong without one.
Expected<> read_everything(Store& store) {
  for (QueueId queue = 1; queue <= kQueues; ++queue) {
    auto position = store.position(queue);
    if (!position) return std::unexpected(position.error());
    auto found = store.read(queue, {1, ~Sequence{0}}, SIZE_MAX, SIZE_MAX);
    if (!found) return std::unexpected(found.error());
    EXPECT_EQ(position->watermark, queue * 10);
    EXPECT_EQ(position->next, kMessages + 1);
    Sequence wanted = queue * 10;
    for (const auto& message : *found) {
      EXPECT_EQ(message.sequence, wanted) << "of queue " << queue << " are missing in silence";
      EXPECT_TRUE(body_of(message) == body_for(queue, message.sequence)) << "a damaged body";
      wanted = message.sequence + 1;
    }
    EXPECT_EQ(wanted, kMessages + 1) << "of queue " << queue << " the end is missing in silence";
  }
  auto catalog = store.catalog(CatalogKind::kQueue);
  if (!catalog) return std::unexpected(catalog.error());
  EXPECT_EQ(catalog->size(), kQueues);
  return {};
}

// What is damaged: files whose names contain the parameter.
class DamageTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::printf("SLUICE_SEED=%lu\n", seed_);
    auto store = open_rocksdb(options());
    ASSERT_TRUE(store) << store.error().message;
    for (QueueId queue = 1; queue <= kQueues; ++queue) {
      Batch definition;
      definition.definitions = {{CatalogKind::kQueue, "q" + std::to_string(queue), "definition"}};
      commit_or_fail(**store, std::move(definition));
      for (Sequence at = 1; at <= kMessages; at += 20) {
        Batch batch;
        for (Sequence i = at; i < at + 20; ++i) {
          batch.appends.push_back({queue, i, record_of(body_for(queue, i))});
        }
        commit_or_fail(**store, std::move(batch));
      }
      commit_or_fail(**store, advance(queue, queue * 10));
      (*store)->reclaim();
    }
    ASSERT_TRUE(read_everything(**store));
    // Flushes have cut the log; so a manifest that ends too early no longer says where its data is.
    ASSERT_TRUE((*store)->close({}));
  }

  RocksdbOptions options() const {
    return {.directory = directory_.path() + "/store", .message_buffer_bytes = 128u << 10};
  }

  // A fresh copy under the name of the store.
  void restore(const std::string& from) {
    fs::remove_all(options().directory);
    fs::copy(from, options().directory, fs::copy_options::recursive);
  }

  // Returns what it did.
  std::string damage(bool truncate) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(options().directory)) {
      std::string name = entry.path().filename().string();
      if (name.find(GetParam()) != std::string::npos && entry.file_size() > 0)
        names.push_back(name);
    }
    std::ranges::sort(names);
    EXPECT_FALSE(names.empty());
    if (names.empty()) return {};
    std::string name = names[random_() % names.size()];
    std::string path = options().directory + "/" + name;
    uint64_t at = random_() % fs::file_size(path);
    if (truncate) {
      fs::resize_file(path, at);
      return name + " cut to " + std::to_string(at) + " bytes";
    }
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    char byte = static_cast<char>(stream.get() ^ (1 << random_() % 8));
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(byte);
    return name + " flipped at byte " + std::to_string(at);
  }

  TemporaryDirectory directory_;
  const uint64_t seed_ = number_from_environment("SLUICE_SEED", std::random_device()());
  const uint64_t rounds_ = number_from_environment("SLUICE_ROUNDS", 30);
  std::mt19937_64 random_{seed_};
};

TEST_P(DamageTest, AtRestIsToldOrHitNothing) {
  std::string intact = directory_.path() + "/intact";
  fs::rename(options().directory, intact);
  uint64_t told = 0;
  for (uint64_t round = 0; round < rounds_ && !HasFailure(); ++round) {
    restore(intact);
    SCOPED_TRACE(damage(round % 2 == 1) + ", SLUICE_SEED=" + std::to_string(seed_));
    auto store = open_rocksdb(options());
    Expected<> outcome;
    if (store) {
      outcome = read_everything(**store);
    } else {
      outcome = std::unexpected(store.error());
    }
    if (outcome) continue;
    ++told;
    EXPECT_GT(outcome.error().message.size(), 20u) << outcome.error().message;
  }
  EXPECT_GT(told, 0u);
  std::printf("%lu of %lu were told\n", told, rounds_);
}

INSTANTIATE_TEST_SUITE_P(Files, DamageTest,
                         ::testing::Values(".sst", ".blob", "MANIFEST", "CURRENT"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '.');
                           return name;
                         });

class LiveDamageTest : public DamageTest {};

TEST_P(LiveDamageTest, UnderARunningStoreIsToldOrHitNothing) {
  std::string intact = directory_.path() + "/intact";
  fs::rename(options().directory, intact);
  uint64_t told = 0;
  for (uint64_t round = 0; round < rounds_ && !HasFailure(); ++round) {
    restore(intact);
    auto store = open_rocksdb(options());
    ASSERT_TRUE(store) << store.error().message;
    SCOPED_TRACE(damage(false) + ", SLUICE_SEED=" + std::to_string(seed_));
    told += !read_everything(**store);
  }
  EXPECT_GT(told, 0u);
  std::printf("%lu of %lu were told\n", told, rounds_);
}

INSTANTIATE_TEST_SUITE_P(Files, LiveDamageTest, ::testing::Values(".sst", ".blob"),
                         [](const auto& info) { return std::string(info.param).substr(1); });

}  // namespace
}  // namespace sluice::storage
