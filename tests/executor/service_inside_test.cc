// The service within this process, over fake sandboxes: what it does between its socket and them.

#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "executor/service/framing.h"
#include "executor/service/limits.h"
#include "executor/service/service.h"
#include "tests/executor/fake_backend.h"

namespace sluice::executor {
namespace {

// Loads what a test has put there under the program's name; an image named "slow" waits at the
// gate.
class FakeBackend : public Backend {
 public:
  std::string name() const override { return "fake"; }
  Expected<std::shared_ptr<const Image>> load(const Program& program, const Limits&) override {
    if (program.name.starts_with("slow")) gate.pass();
    if (program.name.starts_with("bad")) return fail(Code::kInvalid, "a bad image");
    return std::make_shared<FakeImage>(program.name, 1000, 100);
  }
  Gate gate;
};

class ServiceInsideTest : public testing::Test {
 protected:
  void start(Service::Options options) {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    fd_ = fds[0];
    options.fd = fds[1];
    options.workers = 4;
    thread_ = std::thread([options] {
      {
        Service service(options);
        EXPECT_TRUE(service.serve());
      }
      close(options.fd);
    });
    reader_ = std::make_unique<FrameReader>(fd_);
  }
  void start_fake(bool wants_stats = false) {
    wants_stats_ = wants_stats;
    auto backend = std::make_unique<FakeBackend>();
    backend_ = backend.get();
    Service::Options options;
    options.backend = std::move(backend);
    start(std::move(options));
    EXPECT_EQ(next()->event_as_Hello()->backend()->str(), "fake");
  }
  void TearDown() override {
    shutdown(fd_, SHUT_WR);
    thread_.join();
    close(fd_);
  }

  void send(flatbuffers::FlatBufferBuilder& b, schema::Command type,
            flatbuffers::Offset<void> command) {
    b.Finish(schema::CreateToExecutor(b, type, command));
    Outbox(fd_).send(b.Release());
  }
  void load(uint64_t function, const std::string& name, const std::string& owner = "") {
    flatbuffers::FlatBufferBuilder b;
    auto text = b.CreateString(name);
    auto whose = b.CreateString(owner);
    auto limits = schema::CreateLimits(b);
    send(b, schema::Command::Load,
         schema::CreateLoad(b, function, text, 0, 0, 0, 0, limits, whose).Union());
  }
  void invoke(uint64_t call, uint64_t function) {
    flatbuffers::FlatBufferBuilder b;
    auto input = b.CreateVector(reinterpret_cast<const uint8_t*>("in"), 2);
    send(b, schema::Command::Invoke, schema::CreateInvoke(b, call, function, input).Union());
  }
  // The number of the function that was loaded, or of the call that was answered.
  uint64_t next_loaded() {
    const auto* loaded = next()->event_as_Loaded();
    EXPECT_NE(loaded, nullptr);
    return loaded != nullptr ? loaded->function() : 0;
  }
  uint64_t next_result() {
    const auto* result = next()->event_as_Result();
    EXPECT_NE(result, nullptr);
    return result != nullptr ? result->call() : 0;
  }
  // Statistics come whenever they do; who does not want them does not see them.
  const schema::FromExecutor* next() {
    for (;;) {
      auto frame = reader_->next();
      if (!frame || !*frame) {
        ADD_FAILURE() << "the service hung up";
        std::abort();
      }
      frame_ = std::move(**frame);
      const auto* message = flatbuffers::GetRoot<schema::FromExecutor>(frame_.data());
      if (wants_stats_ || message->event_type() != schema::Event::Stats) return message;
    }
  }

  int fd_ = -1;
  std::thread thread_;
  std::unique_ptr<FrameReader> reader_;
  std::vector<uint8_t> frame_;
  bool wants_stats_ = false;
  FakeBackend* backend_ = nullptr;  // the service's
};

TEST_F(ServiceInsideTest, WithoutABackendItTellsTheReasonItWasGiven) {
  Service::Options options;
  options.unavailable = "there is none today";
  start(options);
  EXPECT_EQ(next()->event_as_Hello()->unavailable()->str(), "there is none today");
}

TEST_F(ServiceInsideTest, SlowLoadsHoldUpNoCalls) {
  start_fake();
  load(1, "quick");
  EXPECT_EQ(next_loaded(), 1u);
  for (uint64_t f = 100; f < 100 + 2 * kLoaders; f++) load(f, "slow", "x");
  backend_->gate.await(kLoadersShare);
  for (uint64_t call = 1; call <= 20; call++) {
    invoke(call, 1);
    EXPECT_EQ(next_result(), call);
  }
  backend_->gate.open(2 * kLoaders);
  for (unsigned i = 0; i < 2 * kLoaders; i++) EXPECT_GE(next_loaded(), 100u);
}

TEST_F(ServiceInsideTest, SlowLoadsOfOneOwnerHoldUpNoLoadsOfAnother) {
  start_fake();
  for (uint64_t f = 100; f < 100 + 2 * kLoaders; f++) load(f, "slow", "x");
  backend_->gate.await(kLoadersShare);
  load(1, "quick", "y");
  EXPECT_EQ(next_loaded(), 1u);
  EXPECT_EQ(backend_->gate.waiting(), static_cast<int>(kLoadersShare));
  backend_->gate.open(2 * kLoaders);
  for (unsigned i = 0; i < 2 * kLoaders; i++) EXPECT_GE(next_loaded(), 100u);
}

TEST_F(ServiceInsideTest, AtTheEndEveryLoadAndCallIsStillAnswered) {
  start_fake();
  load(1, "slow");
  load(2, "bad");
  load(3, "quick");
  for (uint64_t call = 0; call < 30; call++) invoke(call, 1 + call % 3);
  shutdown(fd_, SHUT_WR);
  backend_->gate.open(1);
  std::set<uint64_t> loads, calls;
  for (int i = 0; i < 33; i++) {
    const auto* message = next();
    if (const auto* loaded = message->event_as_Loaded()) {
      EXPECT_TRUE(loads.insert(loaded->function()).second);
      EXPECT_EQ(loaded->outcome(),
                loaded->function() == 2 ? schema::Outcome::bad_image : schema::Outcome::ok);
    } else if (const auto* result = message->event_as_Result()) {
      EXPECT_TRUE(calls.insert(result->call()).second);
      EXPECT_EQ(result->outcome(),
                result->call() % 3 == 1 ? schema::Outcome::bad_image : schema::Outcome::ok);
    }
  }
  EXPECT_EQ(loads.size(), 3u);
  EXPECT_EQ(calls.size(), 30u);
}

TEST_F(ServiceInsideTest, StatisticsComeAsTheSchemaSays) {
  start_fake(true);
  load(7, "quick");
  for (uint64_t call = 0; call < 10; call++) invoke(call, 7);
  // Results, and statistics now and then: the last ones tell all of it.
  for (;;) {
    const auto* stats = next()->event_as_Stats();
    if (stats == nullptr || stats->functions()->size() == 0) continue;
    const auto* f = stats->functions()->Get(0);
    if (f->calls() < 10 || f->running() > 0) continue;
    EXPECT_EQ(f->function(), 7u);
    EXPECT_EQ(f->calls(), 10u);
    EXPECT_EQ(f->resets(), 10u);
    EXPECT_EQ(f->exits(), 10u);
    EXPECT_EQ(f->dirty_pages(), 30u);
    EXPECT_EQ(f->run_us(), 100u);
    EXPECT_EQ(f->queued(), 0u);
    EXPECT_EQ(f->sandboxes(), f->clones());
    EXPECT_EQ(f->memory_bytes(), 100u * f->sandboxes());
    EXPECT_EQ(f->target(), 1u);
    EXPECT_EQ(stats->memory_bytes(), 1000 + f->memory_bytes());
    EXPECT_GT(stats->memory_budget_bytes(), 100'000'000u);
    break;
  }
}

}  // namespace
}  // namespace sluice::executor
