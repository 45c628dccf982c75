// Power cuts and kills at random moments, again and again on the same directory. After each the
// store must hold exactly the first n batches of its workload, n not below what was confirmed.

#include <csignal>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "tests/storage/crash_support.h"
#include "tests/storage/faulty_file_system.h"

extern char** environ;

namespace sluice::storage {
namespace {

constexpr size_t kSmallBuffers = 128u << 10;  // so that flushes and compactions are cut, too
constexpr size_t kNeverFlushed = 64u << 20;
constexpr QueueId kQueueEnd = 1'000;  // more than a workload makes

class PowerCutTest : public ::testing::Test {
 protected:
  uint64_t base_ = number_from_environment("SLUICE_SEED", std::random_device()());
  uint64_t rounds_ = number_from_environment("SLUICE_ROUNDS", 6);
  uint64_t cuts_ = 0;
  uint64_t batches_ = 0;

  // Runs the workload of a seed until the power fails, brings the disk into its state after it, and
  // opens the store that is left; several times on one directory. `options` must name no directory
  // and no file system. `check` is given that store and how far the workload came, and tells how
  // many of its batches are there.
  void cut_again_and_again(uint64_t seed, RocksdbOptions options,
                           const std::function<uint64_t(Store&, const Progress&)>& check) {
    std::mt19937_64 random(seed);
    TemporaryDirectory directory;
    FaultyFileSystem system;
    options.directory = directory.path();
    uint64_t done = 0;
    for (int cycle = 0; cycle < 4; ++cycle) {
      system.cut_power_after(static_cast<int64_t>(1 + random() % (cycle % 2 == 0 ? 2000 : 200)));
      options.env = system.env();
      auto store = open_rocksdb(options);
      Progress progress{done, done};
      synced_ = done;
      if (store) {
        auto syncs = system.syncs(".log");
        // On the committer's thread, which is the one that syncs where nothing is flushed.
        progress = drive(**store, seed, done, 1500, 1 + random() % 8, [&](uint64_t confirmed) {
          if (system.syncs(".log") != std::exchange(syncs, system.syncs(".log"))) {
            synced_ = confirmed - 1;
          }
        });
      } else {
        ASSERT_TRUE(system.power_is_off()) << store.error().message;
      }
      if (store) store->reset();
      cuts_ += system.power_is_off();
      system.power_on(random);

      options.env = nullptr;
      auto after = open_rocksdb(options);
      ASSERT_TRUE(after) << after.error().message;
      done = check(**after, progress);
      expect_no_orphans(*std::move(after), options.directory, kQueueEnd);
      if (HasFailure()) return;
    }
    batches_ += done;
  }

  // How many batches the last sync that was seen covers.
  uint64_t synced_ = 0;

  void TearDown() override {
    std::printf("seeds %lu to %lu: %lu power cuts, %lu batches survived\n", base_,
                base_ + rounds_ - 1, cuts_, batches_);
  }
};

TEST_F(PowerCutTest, ExactlyAPrefixWithAllThatWasConfirmedSurvives) {
  for (uint64_t seed = base_; seed < base_ + rounds_ && !HasFailure(); ++seed) {
    SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed) + " SLUICE_ROUNDS=1");
    cut_again_and_again(
        seed, {.message_buffer_bytes = kSmallBuffers},
        [&](Store& store, const Progress& progress) { return recovered(store, seed, progress); });
  }
}

TEST_F(PowerCutTest, WithSyncsInIntervalsAPrefixWithAllThatWasSyncedSurvives) {
  uint64_t lost = 0;
  for (uint64_t seed = base_; seed < base_ + rounds_ && !HasFailure(); ++seed) {
    SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed) + " SLUICE_ROUNDS=1");
    // Small buffers cut flushes, too; without flushes we know what was synced.
    bool flushes = seed % 2 == 0;
    cut_again_and_again(
        seed,
        {.message_buffer_bytes = flushes ? kSmallBuffers : kNeverFlushed,
         .sync = SyncMode::kInterval,
         .sync_interval = std::chrono::milliseconds(5)},
        [&](Store& store, const Progress& progress) {
          uint64_t count = recovered(store, seed, {progress.submitted, flushes ? 0 : synced_});
          lost += progress.confirmed > count;
          return count;
        });
  }
  EXPECT_GT(lost, 0u) << "no cut took anything: nothing was tested";
}

// Shows that the checker would tell.
TEST_F(PowerCutTest, WithoutSyncsTheStoreStartsAndTheCheckerReportsLoss) {
  uint64_t reports = 0;
  for (uint64_t seed = base_; seed < base_ + rounds_ && !HasFailure(); ++seed) {
    SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed) + " SLUICE_ROUNDS=1");
    std::mt19937_64 random(seed);
    TemporaryDirectory directory;
    FaultyFileSystem system;
    RocksdbOptions options{.directory = directory.path(),
                           .env = system.env(),
                           .message_buffer_bytes = kSmallBuffers,
                           .sync = SyncMode::kNone};
    auto store = open_rocksdb(options);
    ASSERT_TRUE(store) << store.error().message;
    system.cut_power_after(static_cast<int64_t>(1 + random() % 2000));
    Progress progress = drive(**store, seed, 0, 1500, 1 + random() % 8);
    store->reset();
    cuts_ += system.power_is_off();
    system.power_on(random);

    options.env = nullptr;
    auto after = open_rocksdb(options);
    ASSERT_TRUE(after) << after.error().message;
    reports += !surviving(**after, seed, progress);
  }
  EXPECT_GT(reports, 0u);
}

// A child of this binary that commits a workload and writes to its stdout how far it came.
class Writer {
 public:
  Writer(const std::string& directory, uint64_t seed, uint64_t done) {
    int ends[2];
    CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    out_ = ends[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    std::string seed_text = std::to_string(seed);
    std::string done_text = std::to_string(done);
    std::vector<char*> arguments = {const_cast<char*>("storage_crash_tests"),
                                    const_cast<char*>("--writer"),
                                    const_cast<char*>(directory.c_str()),
                                    seed_text.data(),
                                    done_text.data(),
                                    nullptr};
    CHECK(::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, arguments.data(), environ) ==
          0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { ::close(out_); }

  // The next number it wrote; nothing once it is dead.
  std::optional<uint64_t> next() {
    uint64_t number;
    if (::read(out_, &number, sizeof number) != sizeof number) return std::nullopt;
    return number;
  }

  // Returns whether it was the signal that ended it.
  bool kill() {
    ::kill(pid_, SIGKILL);
    int status = 0;
    CHECK(::waitpid(pid_, &status, 0) == pid_);
    return WIFSIGNALED(status);
  }

 private:
  int out_ = -1;
  pid_t pid_ = 0;
};

constexpr uint64_t kWriterBatches = 100'000;

int run_writer(char** arguments) {
  auto store = open_rocksdb({.directory = arguments[0], .message_buffer_bytes = kSmallBuffers});
  if (!store) {
    std::fprintf(stderr, "%s\n", store.error().message.c_str());
    return 1;
  }
  drive(**store, std::strtoull(arguments[1], nullptr, 0), std::strtoull(arguments[2], nullptr, 0),
        kWriterBatches, 8, [](uint64_t confirmed) {
          CHECK(::write(STDOUT_FILENO, &confirmed, sizeof confirmed) == sizeof confirmed);
        });
  return 0;
}

TEST(KillTest, ExactlyAPrefixWithAllThatWasConfirmedSurvives) {
  uint64_t seed = number_from_environment("SLUICE_SEED", std::random_device()());
  uint64_t rounds = number_from_environment("SLUICE_ROUNDS", 20);
  SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  TemporaryDirectory directory;
  uint64_t done = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    Writer writer(directory.path(), seed, done);
    Progress progress{done + kWriterBatches, done};
    for (uint64_t left = random() % 150; left > 0; --left) {
      auto confirmed = writer.next();
      ASSERT_TRUE(confirmed) << "the writer ended by itself";
      progress.confirmed = *confirmed;
    }
    ASSERT_TRUE(writer.kill());
    while (auto confirmed = writer.next()) progress.confirmed = *confirmed;
    // What it has in flight and what it may have confirmed without telling us.
    progress.submitted = progress.confirmed + 20;

    auto after = open_or_fail(directory.path());
    ASSERT_NE(after, nullptr);
    done = recovered(*after, seed, progress);
    expect_no_orphans(std::move(after), directory.path(), kQueueEnd);
    if (HasFailure()) return;
  }
  std::printf("seed %lu: %lu kills, %lu batches survived\n", seed, rounds, done);
}

}  // namespace
}  // namespace sluice::storage

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--writer") == 0) {
    return sluice::storage::run_writer(argv + 2);
  }
  // What survives is decided here and not by the machine's disk, so a fast one will do.
  if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
