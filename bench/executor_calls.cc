// What a call of a function costs: by the VMM alone, beside the floor that this machine has for it,
// and through sluice-executor's service.
// usage: executor_calls EMPTY_GUEST SDK_CALL SLUICE_EXECUTOR [CALLS]
// Prints medians; the empty guest reads once and ends, busybox hashes 4 KiB, and what is named sdk
// speaks the function protocol and writes to so many pages.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/call_floor.h"
#include "executor/service/framing.h"
#include "executor/vmm/sandbox.h"
#include "executor/vmm/watchdog.h"
#include "schemas/executor_generated.h"

extern char** environ;

namespace {

using namespace sluice;

struct Subject {
  const char* name;
  std::string path;
  std::vector<std::string> args;
  std::string input;
};

[[noreturn]] void stop(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) stop("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void bench_vmm(const vmm::Machine& machine, const Subject& subject, int calls) {
  auto image = read_file(subject.path);
  vmm::Program program{.name = subject.name, .image = image, .args = {subject.name}};
  program.args.insert(program.args.end(), subject.args.begin(), subject.args.end());
  int64_t start = vmm::now_ns();
  auto snapshot = vmm::Snapshot::load(machine, program, {});
  if (!snapshot) stop(snapshot.error().message);
  double load_us = static_cast<double>(vmm::now_ns() - start) / 1e3;
  std::vector<double> clone_us, call_us, exits, dirty;
  for (int i = 0; i < 20; i++) {
    start = vmm::now_ns();
    auto sandbox = vmm::Sandbox::clone(machine, *snapshot);
    if (!sandbox) stop(sandbox.error().message);
    clone_us.push_back(static_cast<double>(vmm::now_ns() - start) / 1e3);
  }
  auto sandbox = vmm::Sandbox::clone(machine, *snapshot);
  if (!sandbox) stop(sandbox.error().message);
  std::span<const uint8_t> input{reinterpret_cast<const uint8_t*>(subject.input.data()),
                                 subject.input.size()};
  for (int i = 0; i < calls; i++) {
    start = vmm::now_ns();
    vmm::CallResult r = (*sandbox)->call(input);
    call_us.push_back(static_cast<double>(vmm::now_ns() - start) / 1e3);
    if (r.ending.outcome != vmm::Outcome::kOk) stop(r.ending.message);
    exits.push_back(r.exits);
    dirty.push_back(r.dirty_pages);
  }
  double us = median(call_us);
  std::printf(
      "vmm      %-10s %8.1f us/call %8.0f calls/s  exits %2.0f  dirty pages %2.0f  "
      "load %.0f us  clone %.0f us\n",
      subject.name, us, 1e6 / us, median(exits), median(dirty), load_us, median(clone_us));
}

// An invocation of one small record (sdk/PROTOCOL.md).
std::string invocation() {
  std::string text;
  auto put = [&text](auto value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const uint32_t body = 256, record = 24 + 5 + body;
  put(uint32_t{20 + 5 + record});
  put(uint16_t{1});
  put(uint16_t{0});
  put(uint64_t{0});
  put(uint32_t{5000});
  put(uint32_t{1});
  put(uint8_t{5});
  put(record);
  put(uint64_t{1});
  put(uint64_t{0});
  put(uint32_t{1});
  put(uint32_t{0});
  put(uint8_t{16});
  put(body);
  return text + std::string(body, 'x');
}

// A call of the SDK and the floor in turn, so that both meet the same moments of the machine.
void bench_floor(const vmm::Machine& machine, const std::string& path, int pages, int calls) {
  if (machine.flavour() != vmm::Flavour::kSoftware) return;
  auto image = read_file(path);
  vmm::Program program{.name = "sdk", .image = image, .args = {"sdk", std::to_string(pages)}};
  auto snapshot = vmm::Snapshot::load(machine, program, {});
  if (!snapshot) stop(snapshot.error().message);
  auto sandbox = vmm::Sandbox::clone(machine, *snapshot);
  if (!sandbox) stop(sandbox.error().message);
  vmm::CallFloor floor(machine, static_cast<uint64_t>(pages));
  std::string input = invocation();
  std::vector<double> floor_us, call_us, ratios;
  uint32_t exits = 0, dirty = 0;
  constexpr int kInTurn = 100;
  for (int done = 0; done < calls; done += kInTurn) {
    int64_t start = vmm::now_ns();
    for (int i = 0; i < kInTurn; i++) floor.call();
    int64_t between = vmm::now_ns();
    for (int i = 0; i < kInTurn; i++) {
      vmm::CallResult r =
          (*sandbox)->call({reinterpret_cast<const uint8_t*>(input.data()), input.size()});
      if (r.ending.outcome != vmm::Outcome::kOk) stop(r.ending.message);
      exits = r.exits;
      dirty = r.dirty_pages;
    }
    int64_t end = vmm::now_ns();
    floor_us.push_back(static_cast<double>(between - start) / 1e3 / kInTurn);
    call_us.push_back(static_cast<double>(end - between) / 1e3 / kInTurn);
    ratios.push_back(call_us.back() / floor_us.back());
  }
  std::printf(
      "floor    %2d pages    %8.1f us; sdk %8.1f us/call, %.2f times; exits %u, dirty pages %u\n",
      pages, median(floor_us), median(call_us), median(ratios), exits, dirty);
}

void send(int fd, flatbuffers::FlatBufferBuilder& b, schema::Command type,
          flatbuffers::Offset<void> command) {
  b.Finish(schema::CreateToExecutor(b, type, command));
  executor::Outbox(fd).send(b.Release());
}

const schema::FromExecutor* next(executor::FrameReader& reader, std::vector<uint8_t>& frame) {
  for (;;) {
    auto got = reader.next();
    if (!got || !*got) stop("the executor hung up");
    frame = std::move(**got);
    const auto* message = flatbuffers::GetRoot<schema::FromExecutor>(frame.data());
    if (message->event_type() != schema::Event::Stats) return message;
  }
}

// With so many calls in flight, as a broker would have under load.
void bench_service(const char* path, const Subject& subject, int calls, int window) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) stop("no socket pair");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fds[1], 3);
  std::string name = path;
  char* argv[] = {name.data(), nullptr};
  pid_t pid;
  if (posix_spawn(&pid, path, &actions, nullptr, argv, environ) != 0) stop("cannot start it");
  close(fds[1]);
  executor::FrameReader reader(fds[0]);
  std::vector<uint8_t> frame;
  next(reader, frame);
  {
    flatbuffers::FlatBufferBuilder b;
    auto image = b.CreateVector(read_file(subject.path));
    auto text = b.CreateString(subject.name);
    auto args = b.CreateVectorOfStrings(subject.args);
    auto load = schema::CreateLoad(b, 1, text, image, args, text, 0, schema::CreateLimits(b));
    send(fds[0], b, schema::Command::Load, load.Union());
    next(reader, frame);
  }
  auto invoke = [&](int call) {
    flatbuffers::FlatBufferBuilder b;
    auto input = b.CreateVector(reinterpret_cast<const uint8_t*>(subject.input.data()),
                                subject.input.size());
    send(fds[0], b, schema::Command::Invoke,
         schema::CreateInvoke(b, static_cast<uint64_t>(call), 1, input).Union());
  };
  std::vector<double> rates;
  for (int round = 0; round < 5; round++) {
    int64_t start = vmm::now_ns();
    int sent = 0;
    for (; sent < std::min(window, calls); sent++) invoke(sent);
    for (int done = 0; done < calls; done++) {
      next(reader, frame);
      if (sent < calls) invoke(sent++);
    }
    rates.push_back(calls * 1e9 / static_cast<double>(vmm::now_ns() - start));
  }
  std::printf("service  %-10s %8.0f calls/s with %d in flight\n", subject.name, median(rates),
              window);
  close(fds[0]);
  waitpid(pid, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) stop("usage: executor_calls EMPTY_GUEST SDK_CALL SLUICE_EXECUTOR [CALLS]");
  int calls = argc > 4 ? std::atoi(argv[4]) : 5000;
  auto machine = vmm::Machine::open();
  if (!machine) stop(machine.error().message);
  std::printf("KVM flavour: %s, %u CPUs\n", vmm::flavour_name((*machine)->flavour()),
              std::thread::hardware_concurrency());
  const Subject subjects[] = {{"empty", argv[1], {}, "input"},
                              {"sdk", argv[2], {"0"}, invocation()},
                              {"busybox", "/bin/busybox", {"sha256sum"}, std::string(4096, 'x')}};
  for (int pages : {1, 16, 64}) bench_floor(**machine, argv[2], pages, calls);
  for (const Subject& subject : subjects) bench_vmm(**machine, subject, calls);
  for (const Subject& subject : subjects) {
    for (int window : {1, 64}) bench_service(argv[3], subject, calls, window);
  }
}
