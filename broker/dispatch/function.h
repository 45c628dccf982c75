#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "broker/dispatch/executor.h"
#include "schemas/catalog_generated.h"

namespace sluice::broker {

// What a function is deployed with.
struct FunctionConfig {
  std::string image_name;  // becomes argv[0]
  std::vector<std::string> args, env;
  FunctionLimits limits;
  uint32_t concurrency = 0;  // 0: no limit
  std::string image_path;    // of the program in the root file system, where there is no image
  std::string owner = "guest";
};

// What is deployed: a program, a root file system, or both. Each a blob under its hash, which
// versions and functions share. In RAM only while it is deployed or loaded.
struct FunctionFiles {
  std::string image, rootfs;
};

// One deployed version. What it can do depends on the executor: it has to be loaded there, which is
// done when it is first needed and again after the executor was restarted. On the first shard's
// thread, but for what is said below.
struct FunctionVersion {
  enum class State { kUnloaded, kLoading, kReady, kFailed, kUnavailable };

  uint64_t id = 0;  // the executor's name for it
  std::string name;
  uint32_t version = 1;
  FunctionConfig config;
  std::string image_sha256, rootfs_sha256;  // empty where there is none
  uint64_t image_bytes = 0;
  uint64_t rootfs_bytes = 0;
  int64_t created_at_ms = 0;

  State state = State::kUnloaded;
  std::string state_reason;  // a failure, or a warning of a ready one
  bool at_first_read = false;
  // Whether calls are frames of sdk/PROTOCOL.md; learnt by loading it. Read by subscriptions on
  // their shards.
  std::atomic<schema::FunctionProtocol> protocol = schema::FunctionProtocol::unknown;
  uint64_t load_us = 0;
  uint64_t calls = 0;
  uint64_t failures = 0;
  std::optional<FunctionStats> stats;  // since the executor started
  size_t pending = 0;                  // calls from call() to their end
  bool superseded = false;             // by a newer version: unloaded when nothing is pending
  std::vector<std::function<void()>> waiting;  // for the end of kLoading

  bool speaks_protocol() const { return protocol == schema::FunctionProtocol::frames; }
};

// Whether name, limits and files are within the limits (limits.h), which the error names.
Expected<> check(const std::string& name, const FunctionConfig& config, const FunctionFiles& files);

// A version's record in the catalog (schemas/catalog.fbs). kCorrupt where it can not be read.
std::string write_record(const FunctionVersion& version);
Expected<std::shared_ptr<FunctionVersion>> read_record(const std::string& record);

std::string sha256_hex(std::string_view bytes);

}  // namespace sluice::broker
