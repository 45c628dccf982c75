#include "tests/executor/harness.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

namespace sluice::vmm {

const Machine& machine() {
  static const auto opened = Machine::open();
  if (!opened) {
    std::fprintf(stderr, "these tests need KVM: %s\n", opened.error().message.c_str());
    std::exit(1);
  }
  return **opened;
}

std::vector<uint8_t> read_guest(const std::string& name) {
  std::vector<std::string> paths;
  if (name.find('/') != std::string::npos) {
    paths.push_back(name);
  } else {
    const char* folders = std::getenv("SLUICE_GUESTS");
    std::istringstream list(folders != nullptr ? folders : ".");
    for (std::string folder; std::getline(list, folder, ':');) paths.push_back(folder + "/" + name);
  }
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (file) return {std::istreambuf_iterator<char>(file), {}};
  }
  ADD_FAILURE() << "no guest program " << name << "; set SLUICE_GUESTS";
  return {};
}

Loaded::Loaded(const std::string& guest, std::vector<std::string> args, Limits limits,
               std::vector<std::string> env)
    : image_(read_guest(guest)) {
  Program program{.name = guest,
                  .image = image_,
                  .args = {guest.substr(guest.rfind('/') + 1)},
                  .env = std::move(env)};
  program.args.insert(program.args.end(), args.begin(), args.end());
  auto snapshot = Snapshot::load(machine(), program, limits);
  EXPECT_TRUE(snapshot) << guest << ": " << snapshot.error().message;
  if (snapshot) snapshot_ = *snapshot;
}

Sandbox& Loaded::sandbox() {
  if (!sandbox_ || !sandbox_->ready()) {
    auto clone = Sandbox::clone(machine(), snapshot_);
    if (!clone) {
      ADD_FAILURE() << clone.error().message;
      std::abort();
    }
    sandbox_ = std::move(*clone);
  }
  return *sandbox_;
}

CallResult Loaded::call(std::string_view input) { return sandbox().call(bytes_of(input)); }

uint64_t test_seed() {
  const char* given = std::getenv("SLUICE_SEED");
  uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("seed: SLUICE_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace sluice::vmm

// The flavour goes into the log first; --flavour=hardware makes another kind a failure.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::string wanted;
  for (int i = 1; i < argc; i++) {
    std::string_view argument = argv[i];
    if (argument.starts_with("--flavour=")) wanted = argument.substr(10);
  }
  const char* flavour = flavour_name(sluice::vmm::machine().flavour());
  std::printf("KVM flavour: %s\n", flavour);
  if (!wanted.empty() && wanted != flavour) {
    std::fprintf(stderr, "wanted the flavour %s\n", wanted.c_str());
    return 1;
  }
  return RUN_ALL_TESTS();
}
