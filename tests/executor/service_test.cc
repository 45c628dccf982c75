// Drives the built sluice-executor over a socket pair, as the broker does.

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <span>
#include <sstream>

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/service/limits.h"
#include "schemas/executor_generated.h"

extern char** environ;

namespace sluice::executor {
namespace {

constexpr int kAnswerMs = 30'000;

// A frame that came, with its table read.
struct Answer {
  std::vector<uint8_t> frame;
  const schema::FromExecutor* message = nullptr;

  const schema::Result* result() const {
    return message != nullptr ? message->event_as_Result() : nullptr;
  }
  const schema::Loaded* loaded() const {
    return message != nullptr ? message->event_as_Loaded() : nullptr;
  }
  const schema::Hello* hello() const {
    return message != nullptr ? message->event_as_Hello() : nullptr;
  }
};

std::string text_of(const flatbuffers::Vector<uint8_t>* bytes) {
  return bytes == nullptr ? "" : std::string(bytes->begin(), bytes->end());
}

std::string text_of(const flatbuffers::String* text) { return text ? text->str() : ""; }

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<uint8_t> guest(const std::string& name) {
  const char* folder = std::getenv("SLUICE_GUESTS");
  return read_file(std::string(folder != nullptr ? folder : ".") + "/" + name);
}

// An executor of our own, ended and waited for with the test.
class Executor {
 public:
  explicit Executor(std::vector<std::string> options = {"--workers", "2"}) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    fd_ = fds[0];
    const char* path = std::getenv("SLUICE_EXECUTOR");
    std::vector<std::string> words{path != nullptr ? path : "executor/sluice-executor"};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 3);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
  }
  ~Executor() {
    close_socket();
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  pid_t pid() const { return pid_; }
  void close_socket() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  // Until something came, without reading it.
  void await_input() {
    pollfd p{fd_, POLLIN, 0};
    EXPECT_EQ(poll(&p, 1, kAnswerMs), 1);
  }

  void send_raw(const void* bytes, size_t size) {
    const char* at = static_cast<const char*>(bytes);
    while (size > 0) {
      ssize_t put = ::send(fd_, at, size, MSG_NOSIGNAL);
      if (put <= 0) return;  // it hung up, which is for the test to notice
      at += put;
      size -= static_cast<size_t>(put);
    }
  }
  void send_frame(std::span<const uint8_t> frame) {
    auto length = static_cast<uint32_t>(frame.size());
    send_raw(&length, sizeof length);
    send_raw(frame.data(), frame.size());
  }
  void send(flatbuffers::FlatBufferBuilder& b, schema::Command type,
            flatbuffers::Offset<void> command) {
    b.Finish(schema::CreateToExecutor(b, type, command));
    send_frame({b.GetBufferPointer(), b.GetSize()});
  }

  void load(uint64_t function, const std::vector<uint8_t>& image,
            std::vector<std::string> args = {}, uint32_t timeout_ms = 5000) {
    flatbuffers::FlatBufferBuilder b;
    auto name = b.CreateString("test");
    auto bytes = b.CreateVector(image);
    auto list = b.CreateVectorOfStrings(args);
    auto argv0 = b.CreateString("busybox");
    auto limits = schema::CreateLimits(b, 64 << 20, timeout_ms);
    send(b, schema::Command::Load,
         schema::CreateLoad(b, function, name, bytes, list, argv0, 0, limits).Union());
  }
  void invoke(uint64_t call, uint64_t function, const std::string& input) {
    flatbuffers::FlatBufferBuilder b;
    auto bytes = b.CreateVector(reinterpret_cast<const uint8_t*>(input.data()), input.size());
    send(b, schema::Command::Invoke, schema::CreateInvoke(b, call, function, bytes).Union());
  }
  void unload(uint64_t function) {
    flatbuffers::FlatBufferBuilder b;
    send(b, schema::Command::Unload, schema::CreateUnload(b, function).Union());
  }

  // The next frame but for statistics; its message is null at the end of the stream.
  Answer receive() {
    Answer answer = receive_any();
    while (answer.message != nullptr && answer.message->event_type() == schema::Event::Stats) {
      answer = receive_any();
    }
    return answer;
  }
  Answer receive_any() {
    Answer answer;
    uint32_t length = 0;
    if (!read_all(&length, sizeof length)) return answer;
    answer.frame.resize(length);
    if (!read_all(answer.frame.data(), length)) return answer;
    flatbuffers::Verifier verifier(answer.frame.data(), length);
    EXPECT_TRUE(verifier.VerifyBuffer<schema::FromExecutor>(nullptr));
    answer.message = flatbuffers::GetRoot<schema::FromExecutor>(answer.frame.data());
    return answer;
  }
  Answer start() {
    Answer hello = receive();
    EXPECT_NE(hello.hello(), nullptr);
    return hello;
  }
  // Loads and expects it to work.
  void load_ok(uint64_t function, const std::string& name, std::vector<std::string> args = {},
               uint32_t timeout_ms = 5000) {
    load(function, guest(name), std::move(args), timeout_ms);
    Answer answer = receive();
    ASSERT_NE(answer.loaded(), nullptr);
    EXPECT_EQ(answer.loaded()->function(), function);
    EXPECT_EQ(answer.loaded()->outcome(), schema::Outcome::ok)
        << text_of(answer.loaded()->message());
  }
  // The exit status once it has ended by itself; the test's own time limit bounds it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  bool read_all(void* to, size_t size) {
    char* at = static_cast<char*>(to);
    while (size > 0) {
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, kAnswerMs) != 1) {
        ADD_FAILURE() << "no answer in time";
        return false;
      }
      ssize_t got = read(fd_, at, size);
      if (got <= 0) return false;
      at += got;
      size -= static_cast<size_t>(got);
    }
    return true;
  }

  int fd_ = -1;
  pid_t pid_ = -1;
};

TEST(Service, SaysHelloLoadsAndCalls) {
  Executor executor;
  Answer hello = executor.start();
  EXPECT_EQ(text_of(hello.hello()->version()), SLUICE_VERSION);
  EXPECT_TRUE(text_of(hello.hello()->backend()).starts_with("kvm ("));
  EXPECT_EQ(hello.hello()->workers(), 2u);
  EXPECT_EQ(hello.hello()->unavailable(), nullptr);

  executor.load(7, guest("echo"));
  Answer loaded = executor.receive();
  ASSERT_NE(loaded.loaded(), nullptr);
  EXPECT_EQ(loaded.loaded()->outcome(), schema::Outcome::ok);
  EXPECT_TRUE(loaded.loaded()->at_first_read());
  EXPECT_GT(loaded.loaded()->memory_bytes(), 0u);

  executor.invoke(42, 7, "hello");
  Answer answer = executor.receive();
  ASSERT_NE(answer.result(), nullptr);
  EXPECT_EQ(answer.result()->call(), 42u);
  EXPECT_EQ(answer.result()->outcome(), schema::Outcome::ok);
  EXPECT_EQ(text_of(answer.result()->output()), "hello");
  EXPECT_EQ(text_of(answer.result()->log()), "5 bytes");
  EXPECT_GT(answer.result()->exits(), 0u);
}

TEST(Service, UnmodifiedBusyboxHashes) {
  Executor executor;
  executor.start();
  executor.load(1, read_file("/bin/busybox"), {"sha256sum"});
  ASSERT_NE(executor.receive().loaded(), nullptr);
  executor.invoke(1, 1, "abc");
  EXPECT_EQ(text_of(executor.receive().result()->output()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n");
}

TEST(Service, ThousandsOfCallsAreEachAnsweredOnce) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "echo");
  executor.load_ok(2, "empty");
  constexpr uint64_t kCalls = 2000;
  for (uint64_t call = 0; call < kCalls; call++) {
    executor.invoke(call, 1 + call % 2, "input " + std::to_string(call));
  }
  std::set<uint64_t> answered;
  for (uint64_t i = 0; i < kCalls; i++) {
    Answer answer = executor.receive();
    ASSERT_NE(answer.result(), nullptr);
    uint64_t call = answer.result()->call();
    EXPECT_TRUE(answered.insert(call).second) << call;
    EXPECT_EQ(answer.result()->outcome(), schema::Outcome::ok);
    EXPECT_EQ(text_of(answer.result()->output()),
              call % 2 == 0 ? "input " + std::to_string(call) : "");
  }
}

TEST(Service, BadImagesAreRefusedWithTheReason) {
  Executor executor;
  executor.start();
  executor.load(1, guest("empty_dynamic"));
  Answer answer = executor.receive();
  ASSERT_NE(answer.loaded(), nullptr);
  EXPECT_EQ(answer.loaded()->outcome(), schema::Outcome::bad_image);
  EXPECT_NE(text_of(answer.loaded()->message()).find("dynamically linked"), std::string::npos);
  executor.invoke(5, 1, "x");
  answer = executor.receive();
  ASSERT_NE(answer.result(), nullptr);
  EXPECT_EQ(answer.result()->outcome(), schema::Outcome::bad_image);
  EXPECT_EQ(answer.result()->call(), 5u);
}

TEST(Service, UnknownAndUnloadedFunctionsAreNamed) {
  Executor executor;
  executor.start();
  executor.invoke(1, 99, "x");
  Answer answer = executor.receive();
  ASSERT_NE(answer.result(), nullptr);
  EXPECT_EQ(answer.result()->outcome(), schema::Outcome::internal);
  EXPECT_EQ(text_of(answer.result()->message()), "function 99 is not loaded in this executor");
  executor.load_ok(3, "echo");
  executor.unload(3);
  executor.unload(3);
  executor.invoke(2, 3, "x");
  EXPECT_EQ(executor.receive().result()->outcome(), schema::Outcome::internal);
  executor.load_ok(3, "echo");
  executor.invoke(3, 3, "again");
  EXPECT_EQ(text_of(executor.receive().result()->output()), "again");
}

// Calls sent right behind their Load wait for it.
TEST(Service, CallsMayFollowTheirLoadAtOnce) {
  Executor executor;
  executor.start();
  executor.load(1, guest("echo"));
  for (uint64_t i = 0; i < 10; i++) executor.invoke(i, 1, "x");
  ASSERT_NE(executor.receive().loaded(), nullptr);
  for (int i = 0; i < 10; i++) {
    EXPECT_EQ(executor.receive().result()->outcome(), schema::Outcome::ok);
  }
}

TEST(Service, CallsThatWereAcceptedEndBeforeTheirFunctionGoes) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "echo");
  constexpr uint64_t kCalls = 200;
  for (uint64_t i = 0; i < kCalls; i++) executor.invoke(i, 1, "x" + std::to_string(i));
  executor.unload(1);
  executor.invoke(kCalls, 1, "too late");
  std::set<uint64_t> answered;
  for (uint64_t i = 0; i <= kCalls; i++) {
    Answer answer = executor.receive();
    ASSERT_NE(answer.result(), nullptr);
    uint64_t call = answer.result()->call();
    EXPECT_TRUE(answered.insert(call).second);
    EXPECT_EQ(answer.result()->outcome(),
              call == kCalls ? schema::Outcome::internal : schema::Outcome::ok);
    EXPECT_EQ(text_of(answer.result()->output()), call == kCalls ? "" : "x" + std::to_string(call));
  }
}

TEST(Service, ANewVersionTakesNoCallsFromTheOld) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "echo");
  for (uint64_t i = 0; i < 100; i++) executor.invoke(i, 1, "x");
  executor.load(1, guest("empty"));
  for (uint64_t i = 100; i < 200; i++) executor.invoke(i, 1, "x");
  int loaded = 0;
  std::map<uint64_t, std::string> outputs;
  while (loaded + outputs.size() < 201) {
    Answer answer = executor.receive();
    ASSERT_NE(answer.message, nullptr);
    if (const auto* result = answer.result()) {
      EXPECT_EQ(result->outcome(), schema::Outcome::ok);
      EXPECT_TRUE(outputs.emplace(result->call(), text_of(result->output())).second);
    } else {
      loaded++;
    }
  }
  for (const auto& [call, output] : outputs) EXPECT_EQ(output, call < 100 ? "x" : "") << call;
}

TEST(Service, AHostileFunctionDoesNotDisturbTheOthers) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "echo");
  std::map<uint64_t, schema::Outcome> expected{
      {10, schema::Outcome::exception},         {11, schema::Outcome::timeout},
      {12, schema::Outcome::forbidden_syscall}, {13, schema::Outcome::output_limit},
      {14, schema::Outcome::memory_limit},      {15, schema::Outcome::signal}};
  const char* how[] = {"null", "loop", "ptrace", "flood-stdout", "hog", "abort"};
  for (uint64_t f = 10; f <= 15; f++) {
    executor.load_ok(f, "misbehave", {how[f - 10]}, f == 11 ? 300 : 5000);
  }
  int good = 0;
  for (uint64_t f = 10; f <= 15; f++) {
    executor.invoke(f, f, "x");
    executor.invoke(100 + f, 1, "fine");
  }
  for (int i = 0; i < 12; i++) {
    Answer answer = executor.receive();
    ASSERT_NE(answer.result(), nullptr);
    uint64_t call = answer.result()->call();
    if (call >= 100) {
      EXPECT_EQ(text_of(answer.result()->output()), "fine");
      good++;
    } else {
      EXPECT_EQ(answer.result()->outcome(), expected[call]) << how[call - 10];
      EXPECT_NE(text_of(answer.result()->message()), "");
    }
  }
  EXPECT_EQ(good, 6);
}

TEST(Service, LoopingCallsOfOneFunctionDoNotHoldUpAnother) {
  Executor executor(std::vector<std::string>{});
  executor.start();
  executor.load_ok(1, "echo");
  executor.load_ok(2, "misbehave", {"loop"}, 3000);
  constexpr uint64_t kLoops = 8;
  for (uint64_t call = 100; call < 100 + kLoops; call++) executor.invoke(call, 2, "x");
  executor.invoke(1, 1, "fine");
  Answer first = executor.receive();
  ASSERT_NE(first.result(), nullptr);
  EXPECT_EQ(first.result()->call(), 1u);
  EXPECT_EQ(text_of(first.result()->output()), "fine");
}

TEST(Service, EndsWithItsStream) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "misbehave", {"loop"}, 60'000);
  executor.invoke(1, 1, "runs on");
  executor.close_socket();
  int status = executor.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Service, EndsCleanlyWhenItsHelloWasNeverRead) {
  Executor executor;
  executor.await_input();
  executor.close_socket();
  int status = executor.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Service, BadFramesEndItWithoutHarm) {
  std::vector<std::vector<uint8_t>> bad;
  bad.push_back({});                                // an empty frame
  bad.push_back(std::vector<uint8_t>(1000, 0xff));  // no table
  bad.push_back(std::vector<uint8_t>(64, 0));
  for (const auto& frame : bad) {
    Executor executor;
    executor.start();
    executor.send_frame(frame);
    EXPECT_EQ(executor.receive().message, nullptr);
    int status = executor.wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  }
}

TEST(Service, OversizedLengthsAreRefusedUnread) {
  for (uint32_t length : {kFrameBytesMax + 1, UINT32_MAX}) {
    Executor executor;
    executor.start();
    executor.send_raw(&length, sizeof length);
    EXPECT_EQ(executor.receive().message, nullptr);
    EXPECT_EQ(WEXITSTATUS(executor.wait()), 1);
  }
}

TEST(Service, AStreamThatEndsWithinAFrameIsAnError) {
  Executor executor;
  executor.start();
  uint32_t length = kFrameBytesMax;
  executor.send_raw(&length, sizeof length);
  executor.send_raw("abc", 3);
  executor.close_socket();
  EXPECT_EQ(WEXITSTATUS(executor.wait()), 1);
}

TEST(Service, MutatedFramesNeverCrashIt) {
  uint64_t seed = std::getenv("SLUICE_SEED")
                      ? std::strtoull(std::getenv("SLUICE_SEED"), nullptr, 10)
                      : std::random_device()();
  std::printf("seed: SLUICE_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  flatbuffers::FlatBufferBuilder b;
  auto bytes = b.CreateVector(std::vector<uint8_t>(100, 'x'));
  auto name = b.CreateString("n");
  auto load = schema::CreateLoad(b, 1, name, bytes, 0, 0, 0, schema::CreateLimits(b));
  b.Finish(schema::CreateToExecutor(b, schema::Command::Load, load.Union()));
  std::vector<uint8_t> good(b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize());
  for (int round = 0; round < 40; round++) {
    Executor executor({"--workers", "1"});
    executor.start();
    auto frame = good;
    for (int i = 0; i < 3; i++) frame[random() % frame.size()] = static_cast<uint8_t>(random());
    executor.send_frame(frame);
    executor.close_socket();
    int status = executor.wait();
    EXPECT_TRUE(WIFEXITED(status)) << "round " << round << ": signal " << WTERMSIG(status);
  }
}

TEST(Service, WithoutKvmItSaysSoInOneSentence) {
  Executor executor({"--workers", "1", "--kvm", "/dev/there-is-no-kvm"});
  Answer hello = executor.start();
  EXPECT_EQ(text_of(hello.hello()->backend()), "none");
  std::string why = text_of(hello.hello()->unavailable());
  EXPECT_TRUE(why.starts_with("cannot open /dev/there-is-no-kvm: No such file")) << why;
  executor.load(1, guest("echo"));
  Answer answer = executor.receive();
  EXPECT_EQ(answer.loaded()->outcome(), schema::Outcome::unavailable);
  EXPECT_EQ(text_of(answer.loaded()->message()), why);
  executor.invoke(1, 1, "x");
  EXPECT_EQ(executor.receive().result()->outcome(), schema::Outcome::unavailable);
  executor.load(2, guest("empty_dynamic"));
  EXPECT_EQ(executor.receive().loaded()->outcome(), schema::Outcome::bad_image);
}

// Its CPU time stands still when it has nothing to do, also with warm sandboxes.
TEST(Service, AnIdleExecutorUsesNoCpu) {
  Executor executor;
  executor.start();
  executor.load_ok(1, "echo");
  for (uint64_t i = 0; i < 50; i++) executor.invoke(i, 1, "x");
  for (int i = 0; i < 50; i++) ASSERT_NE(executor.receive().result(), nullptr);
  auto ticks = [&] {
    std::ifstream stat("/proc/" + std::to_string(executor.pid()) + "/stat");
    std::string text{std::istreambuf_iterator<char>(stat), {}};
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string field;
    for (int i = 0; i < 11; i++) fields >> field;
    long user = 0, system = 0;
    fields >> user >> system;
    return user + system;
  };
  usleep(200'000);  // whatever was on its way has settled
  long before = ticks();
  usleep(1'000'000);  // the thing measured is that nothing happens in a second
  EXPECT_LE(ticks() - before, 1);
}

}  // namespace
}  // namespace sluice::executor
