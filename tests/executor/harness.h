#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "executor/vmm/sandbox.h"

// What tests of the VMM share: the machine, guest programs by name, one-line calls.
namespace sluice::vmm {

// /dev/kvm; a test that needs it fails without it.
const Machine& machine();

// A guest program's file, from the folders in SLUICE_GUESTS ("a:b"), or a path with a slash.
std::vector<uint8_t> read_guest(const std::string& name);

inline std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A loaded program and one warm sandbox of it, made anew when a call broke it.
class Loaded {
 public:
  Loaded(const std::string& guest, std::vector<std::string> args = {}, Limits limits = {},
         std::vector<std::string> env = {});

  CallResult call(std::string_view input = "input");
  const Snapshot& snapshot() const { return *snapshot_; }
  std::shared_ptr<const Snapshot> shared() const { return snapshot_; }
  Sandbox& sandbox();

 private:
  std::vector<uint8_t> image_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Sandbox> sandbox_;
};

// The seed of a random test: SLUICE_SEED, or a new one; printed either way.
uint64_t test_seed();

}  // namespace sluice::vmm
