#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "executor/process/process_backend.h"

// What tests of the process sandbox share: the spawner, guest programs by name, one-line calls.
namespace sluice::process {

using executor::CallResult;
using executor::Limits;
using executor::Outcome;
using executor::Program;

// Started in main(), before there are threads. A test that needs it fails without it.
Spawner& spawner();
ProcessBackend& backend();

std::vector<uint8_t> read_guest(const std::string& name);

inline std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A loaded program and one warm sandbox of it.
class Loaded {
 public:
  Loaded(const std::string& guest, std::vector<std::string> args = {}, Limits limits = {},
         std::vector<std::string> env = {});
  Loaded(const Program& program, const Limits& limits) { load(program, limits); }

  CallResult call(std::string_view input = "input") { return sandbox().call(bytes_of(input)); }
  const executor::Image& image() const { return *image_; }
  executor::Sandbox& sandbox();

 private:
  void load(const Program& program, const Limits& limits);

  std::vector<uint8_t> bytes_;
  std::shared_ptr<const executor::Image> image_;
  std::unique_ptr<executor::Sandbox> sandbox_;
};

// A file of /proc; empty when its process has gone.
std::string proc_text(int pid, const char* file);
// Processes below this one, by /proc: their ids.
std::vector<int> descendants(int of);
// Waits (by looking) until the condition holds; false after ten seconds.
template <typename Condition>
bool eventually(Condition condition);

}  // namespace sluice::process

#include <unistd.h>

template <typename Condition>
bool sluice::process::eventually(Condition condition) {
  for (int i = 0; i < 2000; i++) {
    if (condition()) return true;
    usleep(5000);
  }
  return false;
}
