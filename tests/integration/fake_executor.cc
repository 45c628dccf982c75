// An executor without sandboxes, for tests of the broker's side: each call is a process of the
// image, started anew, which gets its frame on descriptor 3. No isolation whatever.
//
// It tells what it was given: its backend is what --sandbox says, its budget --memory-budget, and a
// function with DESCRIBE in its environment is loaded with a warning that lists its limits.
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schemas/executor_generated.h"

namespace {

using namespace sluice::schema;
using Frame = std::vector<uint8_t>;

constexpr int kSocket = 3;

struct Function {
  uint64_t id = 0;
  int image = -1;
  int timeout_ms = 0;
  bool protocol = false;
  std::vector<std::string> args, env;
  uint64_t calls = 0;
};

std::mutex mutex;  // guards what follows, and writing
std::map<uint64_t, std::shared_ptr<Function>> functions;
std::string sandbox = "kvm (fake)";
uint64_t budget = 0;

bool read_all(int fd, void* to, size_t count) {
  for (size_t done = 0; done < count;) {
    ssize_t got = read(fd, static_cast<char*>(to) + done, count - done);
    if (got <= 0) return false;
    done += static_cast<size_t>(got);
  }
  return true;
}

bool write_all(int fd, const void* from, size_t count) {
  for (size_t done = 0; done < count;) {
    ssize_t put = send(fd, static_cast<const char*>(from) + done, count - done, MSG_NOSIGNAL);
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

void send_event(flatbuffers::FlatBufferBuilder& builder, Event type,
                flatbuffers::Offset<void> event) {
  builder.Finish(CreateFromExecutor(builder, type, event));
  uint32_t length = builder.GetSize();
  std::lock_guard lock(mutex);
  write_all(kSocket, &length, 4);
  write_all(kSocket, builder.GetBufferPointer(), length);
}

void send_stats(const Function& function) {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<FunctionStats>> list = {CreateFunctionStats(
      builder, function.id, 1, 2, 3, 4, function.calls, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  auto stats = CreateStats(builder, builder.CreateVector(list), 12345, budget);
  send_event(builder, Event::Stats, stats.Union());
}

std::vector<std::string> texts(
    const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* list) {
  std::vector<std::string> all;
  if (list == nullptr) return all;
  for (const auto* text : *list) all.push_back(text->str());
  return all;
}

std::string describe(const Load& load) {
  const Limits& l = *load.limits();
  std::string text = "owner=" + load.owner()->str();
  for (auto [name, value] : std::initializer_list<std::pair<const char*, uint64_t>>{
           {"memory_bytes", l.memory_bytes()},
           {"timeout_ms", l.timeout_ms()},
           {"cpu_ms", l.cpu_ms()},
           {"output_bytes", l.output_bytes()},
           {"log_bytes", l.log_bytes()},
           {"open_files", l.open_files()},
           {"threads", l.threads()},
           {"tmpfs_bytes", l.tmpfs_bytes()},
           {"concurrency", load.concurrency()},
           {"image", load.image() != nullptr ? load.image()->size() : 0},
           {"rootfs", load.rootfs() != nullptr ? load.rootfs()->size() : 0}}) {
    text += std::string(" ") + name + "=" + std::to_string(value);
  }
  return text + " image_path=" + (load.image_path() != nullptr ? load.image_path()->str() : "") +
         " argv0=" + load.argv0()->str();
}

void load(const Load& load) {
  auto function = std::make_shared<Function>();
  function->id = load.function();
  function->timeout_ms = static_cast<int>(load.limits()->timeout_ms());
  function->args = texts(load.args());
  function->args.insert(function->args.begin(), load.argv0()->str());
  function->env = texts(load.env());
  std::string warning;
  for (const std::string& entry : function->env) {
    if (entry == "DESCRIBE=1") warning = describe(load);
  }
  if (load.image() != nullptr) {
    std::string_view image(reinterpret_cast<const char*>(load.image()->data()),
                           load.image()->size());
    function->protocol = image.find("SLUICE_FD") != std::string_view::npos;
    function->image = memfd_create("image", MFD_CLOEXEC);
    if (write(function->image, image.data(), image.size()) < 0) abort();
  }
  {
    std::lock_guard lock(mutex);
    functions[function->id] = function;
  }
  flatbuffers::FlatBufferBuilder builder;
  auto loaded = CreateLoaded(builder, function->id, Outcome::ok, builder.CreateString(warning),
                             true, 1, 1, function->protocol);
  send_event(builder, Event::Loaded, loaded.Union());
  send_stats(*function);
}

void run_child(const Function& function, int channel, int in, int out, int log) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(in, 0);
  dup2(out, 1);
  dup2(log, 2);
  dup2(channel, kSocket);
  std::vector<std::string> env = function.env;
  if (function.protocol) env.push_back("SLUICE_FD=3");
  std::vector<char*> argv, envp;
  for (const std::string& text : function.args) argv.push_back(const_cast<char*>(text.c_str()));
  for (const std::string& text : env) envp.push_back(const_cast<char*>(text.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  fexecve(function.image, argv.data(), envp.data());
  _exit(126);
}

std::string content_of(int fd) {
  std::string text(static_cast<size_t>(lseek(fd, 0, SEEK_END)), '\0');
  if (pread(fd, text.data(), text.size(), 0) < 0) text.clear();
  return text;
}

// What came on the channel until it was a frame, ended, or took too long.
std::string read_answer(int channel, int timeout_ms, bool& timed_out) {
  std::string answer;
  char piece[65536];
  for (;;) {
    pollfd wait{channel, POLLIN, 0};
    timed_out = poll(&wait, 1, timeout_ms) == 0;
    ssize_t got = timed_out ? 0 : read(channel, piece, sizeof piece);
    if (got <= 0) return answer;
    answer.append(piece, static_cast<size_t>(got));
    uint32_t length;
    if (answer.size() < 4) continue;
    std::memcpy(&length, answer.data(), 4);
    if (answer.size() >= 4ull + length) return answer;
  }
}

void invoke(uint64_t call, const std::shared_ptr<Function>& function, Frame input) {
  int channel[2];
  int in = memfd_create("in", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC),
      log = memfd_create("log", MFD_CLOEXEC);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) abort();
  if (!function->protocol && write(in, input.data(), input.size()) < 0) abort();
  lseek(in, 0, SEEK_SET);
  pid_t child = fork();
  if (child == 0) {
    run_child(*function, channel[1], in, function->protocol ? log : out, log);
  }
  close(channel[1]);
  bool timed_out = false;
  std::string output;
  if (function->protocol) write_all(channel[0], input.data(), input.size());
  // A plain program never writes to the channel: this waits for its end.
  output = read_answer(channel[0], function->timeout_ms, timed_out);
  if (function->protocol || timed_out) kill(child, SIGKILL);
  close(channel[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!function->protocol) output = content_of(out);
  Outcome outcome = Outcome::ok;
  std::string message;
  if (timed_out) {
    outcome = Outcome::timeout;
    message = "it took too long";
  } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) {
    outcome = Outcome::exception;
    message = "it met a page fault";
  } else if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    outcome = Outcome::exit_status;
    message = "it ended with a status";
  }
  std::string text = content_of(log);
  for (int fd : {in, out, log}) close(fd);
  flatbuffers::FlatBufferBuilder builder;
  auto result = CreateResult(
      builder, call, outcome, WIFEXITED(status) ? WEXITSTATUS(status) : 0,
      builder.CreateString(message),
      builder.CreateVector(reinterpret_cast<const uint8_t*>(output.data()), output.size()),
      builder.CreateVector(reinterpret_cast<const uint8_t*>(text.data()), text.size()), 1, 1, 1);
  send_event(builder, Event::Result, result.Union());
  {
    std::lock_guard lock(mutex);
    ++function->calls;
  }
  send_stats(*function);
}

void refuse(uint64_t call, const char* why) {
  flatbuffers::FlatBufferBuilder builder;
  auto result = CreateResult(builder, call, Outcome::unavailable, 0, builder.CreateString(why));
  send_event(builder, Event::Result, result.Union());
}

void handle(const Frame& frame) {
  const auto* message = flatbuffers::GetRoot<ToExecutor>(frame.data());
  if (const auto* to_load = message->command_as_Load()) return load(*to_load);
  if (const auto* to_unload = message->command_as_Unload()) {
    std::lock_guard lock(mutex);
    functions.erase(to_unload->function());
    return;
  }
  const auto* to_invoke = message->command_as_Invoke();
  std::shared_ptr<Function> function;
  {
    std::lock_guard lock(mutex);
    auto found = functions.find(to_invoke->function());
    if (found != functions.end()) function = found->second;
  }
  if (function == nullptr) return refuse(to_invoke->call(), "no such function");
  const auto* input = to_invoke->input();
  std::thread(invoke, to_invoke->call(), function, Frame(input->begin(), input->end())).detach();
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--sandbox") == 0) sandbox = argv[i + 1];
    if (std::strcmp(argv[i], "--memory-budget") == 0) budget = std::stoull(argv[i + 1]);
  }
  {
    flatbuffers::FlatBufferBuilder builder;
    auto hello =
        CreateHello(builder, builder.CreateString("fake"), builder.CreateString(sandbox), 0, 8);
    send_event(builder, Event::Hello, hello.Union());
  }
  {
    // Something that a later version may say.
    flatbuffers::FlatBufferBuilder builder;
    auto unknown = CreateStats(builder);
    send_event(builder, static_cast<Event>(77), unknown.Union());
  }
  for (;;) {
    uint32_t length;
    if (!read_all(kSocket, &length, 4)) return 0;
    Frame frame(length);
    if (!read_all(kSocket, frame.data(), length)) return 0;
    handle(frame);
  }
}
