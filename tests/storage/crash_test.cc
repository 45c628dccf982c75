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

// This binary as another process, with its stdout.
class Child {
 public:
  explicit Child(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "storage_crash_tests");
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    int ends[2];
    CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    out_ = ends[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    CHECK(::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, pointers.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { ::close(out_); }

  // The next thing it wrote; nothing once it is dead.
  template <typename T>
  std::optional<T> next() {
    T value;
    if (::read(out_, &value, sizeof value) != sizeof value) return std::nullopt;
    return value;
  }
  void kill() { ::kill(pid_, SIGKILL); }
  // How it ended, as of waitpid().
  int status() {
    int status = 0;
    CHECK(::waitpid(pid_, &status, 0) == pid_);
    return status;
  }

 private:
  int out_ = -1;
  pid_t pid_ = 0;
};

// What a process does that loses its power. It does not close its store, just as a machine does
// not; and RocksDB, once its disk has failed, does not close without assertions of its own.
struct Cut {
  uint64_t seed;  // of the workload
  uint64_t done;  // of it, before
  uint64_t after_changes;
  uint64_t in_flight;
  uint64_t loss_seed;
  SyncMode sync;
  size_t buffer_bytes;
};
struct CutResult {
  Progress progress;
  uint64_t synced;  // how many batches the last sync that was seen covers
  bool power_was_off;
};

// Where such a process keeps what its file system puts aside.
std::string aside_of(const std::string& directory) { return directory + "-aside"; }

int run_until_cut(const std::string& directory, const Cut& cut) {
  // The log goes elsewhere than the result.
  int out = ::dup(STDOUT_FILENO);
  CHECK(::dup2(STDERR_FILENO, STDOUT_FILENO) == STDOUT_FILENO);
  std::filesystem::create_directories(aside_of(directory));
  ::setenv("TMPDIR", aside_of(directory).c_str(), /*overwrite=*/1);
  FaultyFileSystem system;
  system.cut_power_after(static_cast<int64_t>(cut.after_changes));
  auto store = open_rocksdb({.directory = directory,
                             .env = system.env(),
                             .message_buffer_bytes = cut.buffer_bytes,
                             .sync = cut.sync,
                             .sync_interval = std::chrono::milliseconds(5)});
  CutResult result{{cut.done, cut.done}, cut.done, false};
  if (store) {
    auto syncs = system.syncs(".log");
    // On the committer's thread, which is the one that syncs where nothing is flushed.
    result.progress =
        drive(**store, cut.seed, cut.done, 1500, cut.in_flight, [&](uint64_t confirmed) {
          if (system.syncs(".log") != std::exchange(syncs, system.syncs(".log"))) {
            result.synced = confirmed - 1;
          }
        });
  } else if (!system.power_is_off()) {
    std::fprintf(stderr, "%s\n", store.error().message.c_str());
    _exit(1);
  }
  result.power_was_off = system.power_is_off();
  std::mt19937_64 random(cut.loss_seed);
  system.lose_unsynced(random);
  CHECK(::write(out, &result, sizeof result) == sizeof result);
  _exit(0);
}

class PowerCutTest : public ::testing::Test {
 protected:
  uint64_t base_ = number_from_environment("SLUICE_SEED", std::random_device()());
  uint64_t rounds_ = number_from_environment("SLUICE_ROUNDS", 6);
  uint64_t cuts_ = 0;
  uint64_t aborts_ = 0;
  uint64_t batches_ = 0;

  // Nothing where RocksDB, with its disk gone, ended the process by an assertion of its own, which
  // it does now and then: what it left is that of a kill, and how far it came is not known.
  std::optional<CutResult> result_of(const std::string& directory, const Cut& cut) {
    std::vector<std::string> arguments = {"--power-cut", directory};
    for (uint64_t number : {cut.seed, cut.done, cut.after_changes, cut.in_flight, cut.loss_seed,
                            static_cast<uint64_t>(cut.sync), uint64_t{cut.buffer_bytes}}) {
      arguments.push_back(std::to_string(number));
    }
    Child child(arguments);
    auto result = child.next<CutResult>();
    int status = child.status();
    std::filesystem::remove_all(aside_of(directory));
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
      ++aborts_;
      return std::nullopt;
    }
    EXPECT_EQ(status, 0);
    if (result) cuts_ += result->power_was_off;
    return result;
  }

  // Runs the workload of a seed until the power fails, and opens the store that is left; several
  // times on one directory. `check` is given that store and how far the workload came, and tells
  // how many of its batches are there.
  void cut_again_and_again(uint64_t seed, SyncMode sync, size_t buffer_bytes,
                           const std::function<uint64_t(Store&, const CutResult&)>& check) {
    std::mt19937_64 random(seed);
    TemporaryDirectory directory;
    uint64_t done = 0;
    for (int cycle = 0; cycle < 4; ++cycle) {
      uint64_t after_changes = 1 + random() % (cycle % 2 == 0 ? 2000 : 200);
      auto result = result_of(directory.path(), {.seed = seed,
                                                 .done = done,
                                                 .after_changes = after_changes,
                                                 .in_flight = 1 + random() % 8,
                                                 .loss_seed = random(),
                                                 .sync = sync,
                                                 .buffer_bytes = buffer_bytes});
      if (!result || HasFailure()) return;
      auto after = open_or_fail(directory.path());
      ASSERT_NE(after, nullptr);
      done = check(*after, *result);
      expect_no_orphans(std::move(after), directory.path(), kQueueEnd);
      if (HasFailure()) return;
    }
    batches_ += done;
  }

  void TearDown() override {
    std::printf("seeds %lu to %lu: %lu power cuts, %lu batches survived, %lu ended by RocksDB\n",
                base_, base_ + rounds_ - 1, cuts_, batches_, aborts_);
    EXPECT_LE(aborts_, 1 + rounds_ / 5);
  }
};

TEST_F(PowerCutTest, ExactlyAPrefixWithAllThatWasConfirmedSurvives) {
  for (uint64_t seed = base_; seed < base_ + rounds_ && !HasFailure(); ++seed) {
    SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed) + " SLUICE_ROUNDS=1");
    cut_again_and_again(seed, SyncMode::kAlways, kSmallBuffers,
                        [&](Store& store, const CutResult& result) {
                          return recovered(store, seed, result.progress);
                        });
  }
}

TEST_F(PowerCutTest, WithSyncsInIntervalsAPrefixWithAllThatWasSyncedSurvives) {
  uint64_t lost = 0;
  for (uint64_t seed = base_; seed < base_ + rounds_ && !HasFailure(); ++seed) {
    SCOPED_TRACE("SLUICE_SEED=" + std::to_string(seed) + " SLUICE_ROUNDS=1");
    // Small buffers cut flushes, too; without flushes we know what was synced.
    bool flushes = seed % 2 == 0;
    cut_again_and_again(seed, SyncMode::kInterval, flushes ? kSmallBuffers : kNeverFlushed,
                        [&](Store& store, const CutResult& result) {
                          const Progress& progress = result.progress;
                          uint64_t count = recovered(
                              store, seed, {progress.submitted, flushes ? 0 : result.synced});
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
    uint64_t after_changes = 1 + random() % 2000;
    auto result = result_of(directory.path(), {.seed = seed,
                                               .done = 0,
                                               .after_changes = after_changes,
                                               .in_flight = 1 + random() % 8,
                                               .loss_seed = random(),
                                               .sync = SyncMode::kNone,
                                               .buffer_bytes = kSmallBuffers});
    if (!result) continue;
    auto after = open_or_fail(directory.path());
    ASSERT_NE(after, nullptr);
    reports += !surviving(*after, seed, result->progress).count;
  }
  EXPECT_GT(reports, 0u);
}

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
    Child writer({"--writer", directory.path(), std::to_string(seed), std::to_string(done)});
    Progress progress{done + kWriterBatches, done};
    for (uint64_t left = random() % 150; left > 0; --left) {
      auto confirmed = writer.next<uint64_t>();
      ASSERT_TRUE(confirmed) << "the writer ended by itself";
      progress.confirmed = *confirmed;
    }
    writer.kill();
    while (auto confirmed = writer.next<uint64_t>()) progress.confirmed = *confirmed;
    ASSERT_TRUE(WIFSIGNALED(writer.status()));
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
  if (argc == 10 && std::strcmp(argv[1], "--power-cut") == 0) {
    auto number = [&](int at) { return std::strtoull(argv[at], nullptr, 0); };
    return sluice::storage::run_until_cut(
        argv[2], {number(3), number(4), number(5), number(6), number(7),
                  static_cast<sluice::storage::SyncMode>(number(8)), number(9)});
  }
  // What survives is decided here and not by the machine's disk, so a fast one will do.
  if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
