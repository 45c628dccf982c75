#include "tests/executor/process_harness.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include <fcntl.h>
#include <unistd.h>

namespace sluice::process {
namespace {

std::unique_ptr<Spawner> started;

}  // namespace

Spawner& spawner() { return *started; }

ProcessBackend& backend() {
  static const auto opened = ProcessBackend::open(spawner());
  if (!opened) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    std::exit(1);
  }
  return **opened;
}

std::vector<uint8_t> read_guest(const std::string& name) {
  const char* folder = std::getenv("SLUICE_GUESTS");
  std::string path = name.find('/') != std::string::npos
                         ? name
                         : std::string(folder != nullptr ? folder : ".") + "/" + name;
  std::ifstream file(path, std::ios::binary);
  if (!file) ADD_FAILURE() << "no guest program " << path << "; set SLUICE_GUESTS";
  return {std::istreambuf_iterator<char>(file), {}};
}

Loaded::Loaded(const std::string& guest, std::vector<std::string> args, Limits limits,
               std::vector<std::string> env)
    : bytes_(read_guest(guest)) {
  std::string name = guest.substr(guest.rfind('/') + 1);
  Program program{.name = name, .image = bytes_, .args = {name}, .env = std::move(env)};
  program.args.insert(program.args.end(), args.begin(), args.end());
  load(program, limits);
}

void Loaded::load(const Program& program, const Limits& limits) {
  auto image = backend().load(program, limits);
  EXPECT_TRUE(image) << program.name << ": " << image.error().message;
  if (!image) std::abort();
  image_ = *image;
}

executor::Sandbox& Loaded::sandbox() {
  if (!sandbox_ || !sandbox_->ready()) {
    auto clone = image_->clone();
    if (!clone) {
      ADD_FAILURE() << clone.error().message;
      std::abort();
    }
    sandbox_ = std::move(*clone);
  }
  return *sandbox_;
}

std::string proc_text(int pid, const char* file) {
  int fd = open(("/proc/" + std::to_string(pid) + "/" + file).c_str(), O_RDONLY | O_CLOEXEC);
  std::string text;
  char buffer[4096];
  for (ssize_t got; fd >= 0 && (got = read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(got));
  }
  if (fd >= 0) close(fd);
  return text;
}

std::vector<int> descendants(int of) {
  std::map<int, int> parents;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    int pid = std::atoi(entry.path().filename().c_str());
    if (pid == 0) continue;
    std::string text = proc_text(pid, "stat");
    size_t at = text.rfind(')');
    if (at == std::string::npos) continue;
    char state;
    int parent = 0;
    std::istringstream(text.substr(at + 1)) >> state >> parent;
    parents[pid] = parent;
  }
  std::vector<int> found;
  for (auto [pid, parent] : parents) {
    for (int above = parent; above != 0; above = parents.contains(above) ? parents[above] : 0) {
      if (above == of) {
        found.push_back(pid);
        break;
      }
    }
  }
  return found;
}

}  // namespace sluice::process

int main(int argc, char** argv) {
  auto spawner = sluice::process::Spawner::start({});
  if (!spawner) {
    std::fprintf(stderr, "%s\n", spawner.error().message.c_str());
    return 1;
  }
  // As in the executor.
  signal(SIGPIPE, SIG_IGN);
  sluice::process::started = std::move(*spawner);
  testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  sluice::process::started.reset();
  return result;
}
