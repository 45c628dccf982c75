#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "broker/dispatch/call_log.h"
#include "broker/dispatch/executor.h"
#include "broker/routing/virtual_host.h"
#include "storage/store.h"

namespace sluice::broker {

// What a function is deployed with.
struct FunctionConfig {
  std::string image_name;  // becomes argv[0]
  std::vector<std::string> args, env;
  uint64_t memory_bytes = 64u << 20;
  uint32_t timeout_ms = 5000;
};

// One deployed version. What it can do depends on the executor: it has to be loaded there, which is
// done when it is first needed and again after the executor was restarted.
struct FunctionVersion {
  enum class State { kUnloaded, kLoading, kReady, kFailed, kUnavailable };

  uint64_t id = 0;  // the executor's name for it
  std::string name;
  uint32_t version = 1;
  FunctionConfig config;
  std::string image_sha256;
  uint64_t image_bytes = 0;
  int64_t created_at_ms = 0;

  State state = State::kUnloaded;
  std::string state_reason;  // a failure, or a warning of a ready one
  bool at_first_read = false;
  uint64_t load_us = 0;
  uint64_t calls = 0;
  uint64_t failures = 0;
  std::vector<std::function<void()>> waiting;  // for the end of kLoading
};

// The functions: deployed, kept in the catalog with their images as blobs, and called. On the first
// shard's thread; but newest() may be called on any shard's, as the functions there are change only
// while all others stand still.
class Functions {
 public:
  using VersionPtr = std::shared_ptr<FunctionVersion>;

  Functions(uv_loop_t* loop, storage::Store& store, VirtualHost& virtual_host, Executor& executor);

  Expected<> recover();

  // Checks the image with the executor, then stores it as the next version; `done` is called when
  // it is durable. An image that can not run is refused (kInvalid); where the executor can not tell
  // because it runs no sandboxes, the function is stored all the same.
  void deploy(std::string name, FunctionConfig config, std::string image,
              std::function<void(Expected<VersionPtr>)> done);
  // All versions; `done` when durable. kNotFound.
  void remove(std::string_view name, std::function<void(Expected<>)> done);

  // Null where there is none.
  VersionPtr newest(std::string_view name) const;
  std::vector<VersionPtr> versions(std::string_view name) const;
  std::vector<std::string> names() const;
  CallLog* log(std::string_view name);

  // Loads the version if it is not, ahead of its first call.
  void prepare(const VersionPtr& version);

  // Who calls, for the log.
  struct Caller {
    std::string source;
    uint32_t attempt = 1;
  };
  // Runs the version on `input`, which must live until `done`; that comes on a later turn.
  void call(const VersionPtr& version, amqp::Bytes input, Caller caller,
            std::function<void(CallResult)> done);
  // The same with an external body, which is read whole. One above kInputMaxBytes fails the call.
  void call(const VersionPtr& version, const storage::BodyPtr& input, Caller caller,
            std::function<void(CallResult)> done);

  // The executor's state has changed.
  void executor_changed();

 private:
  struct Function {
    std::vector<VersionPtr> versions;  // ascending
    CallLog log;
  };

  Expected<VersionPtr> read(const storage::CatalogEntry& entry);
  void save(const FunctionVersion& version, std::string image);
  void unload(const VersionPtr& version);
  void load(const VersionPtr& version, std::string image);
  void load_now(const VersionPtr& version, std::string image);
  void loaded(const VersionPtr& version, const LoadResult& result);
  struct LargeInput {
    VersionPtr version;
    storage::BodyPtr body;
    Caller caller;
    std::function<void(CallResult)> done;
  };
  void start_large_inputs();
  void call_large(LargeInput input);
  void run(const VersionPtr& version, amqp::Bytes input, Caller caller,
           std::function<void(CallResult)> done);
  void note(const FunctionVersion& version, const Caller& caller, const CallResult& result);
  void deploy_checked(const VersionPtr& version, std::string image,
                      std::function<void(Expected<VersionPtr>)> done);

  void refuse_later(CallResult result, std::function<void(CallResult)> done);

  storage::Store& store_;
  VirtualHost& virtual_host_;
  Journal& journal_;
  Bodies& bodies_;
  Executor& executor_;
  std::map<std::string, Function, std::less<>> functions_;
  std::map<std::string, uint32_t, std::less<>> deploying_;  // version numbers given out
  uint64_t last_id_ = 0;
  std::deque<LargeInput> large_inputs_;  // that wait for room
  uint64_t large_input_bytes_ = 0;       // of calls under way
  // Calls that could not be made, to be answered on the next turn.
  std::vector<std::function<void()>> refusals_;
  net::Wakeup refusals_wakeup_;
};

}  // namespace sluice::broker
