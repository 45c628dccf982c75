#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "broker/dispatch/call_log.h"
#include "broker/dispatch/executor.h"
#include "broker/dispatch/function.h"
#include "broker/dispatch/protocol.h"
#include "broker/routing/virtual_host.h"
#include "storage/store.h"

namespace sluice::broker {

// What a function is called with. The records view what the caller holds until the call's end.
struct CallInput {
  std::vector<protocol::Record> records;  // a plain program takes one, and its body alone
  // Of those whose body is external: by record, null where it is not; or nothing at all.
  std::vector<storage::BodyPtr> bodies;
  std::optional<amqp::Bytes> state;
  // What the answer gives (outputs, a state) is to be carried out: a call fails whose answer asks
  // for what can not be.
  bool settles = true;
};

// The functions: deployed, kept in the catalog with their files as blobs, and called. On the first
// shard's thread; but newest() may be called on any shard's, as the functions there are change only
// while all others stand still.
class Functions {
 public:
  using VersionPtr = std::shared_ptr<FunctionVersion>;

  Functions(uv_loop_t* loop, storage::Store& store, VirtualHost& virtual_host, Executor& executor);

  Expected<> recover();

  // Checks the files with the executor, then stores them as the next version; `done` is called when
  // it is durable. A program that can not run is refused (kInvalid); where the executor can not
  // tell because it runs no sandboxes, the function is stored all the same.
  void deploy(std::string name, FunctionConfig config, FunctionFiles files,
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
  // Runs the version on `input`, or a newer one that has taken its place. External bodies are read
  // whole before. Input over the limits, and several records for a plain program, fail the call.
  // `done` comes on a later turn.
  void call(const VersionPtr& version, CallInput input, Caller caller,
            std::function<void(CallResult)> done);

  // The executor's state has changed.
  void executor_changed();

 private:
  struct Function {
    std::vector<VersionPtr> versions;  // ascending
    CallLog log;
  };

  void deploy_hashed(const VersionPtr& version, const std::shared_ptr<FunctionFiles>& files,
                     std::function<void(Expected<VersionPtr>)> done);
  void deploy_checked(const VersionPtr& version, FunctionFiles& files,
                      std::function<void(Expected<VersionPtr>)> done);
  void save(const FunctionVersion& version, FunctionFiles& files);
  bool uses_blob(std::string_view sha256) const;
  void supersede(const VersionPtr& version);
  void unload_superseded(FunctionVersion& version);

  // Of the files of versions that are being loaded, only so much is in RAM at a time.
  struct Load {
    VersionPtr version;
    std::shared_ptr<FunctionFiles> files;  // null: to be read from the store
    uint64_t bytes() const { return version->image_bytes + version->rootfs_bytes; }
  };
  void load(const VersionPtr& version, std::shared_ptr<FunctionFiles> files);
  void start_loads();
  void read_files(Load load);
  void load_now(const Load& load);
  void load_ended(const Load& load, const LoadResult& result);
  void loaded(const VersionPtr& version, const LoadResult& result);

  // function_calls.cc
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  void start_large_calls();
  void read_bodies(const CallPtr& call);
  void start(const CallPtr& call);
  void run(const CallPtr& call);
  void take_answer(const Call& call, CallResult& result) const;
  void finish(Call& call, CallResult result);
  void finish_later(const CallPtr& call, CallResult result);
  void note(const Call& call, const CallResult& result);

  uv_loop_t* const loop_;
  storage::Store& store_;
  VirtualHost& virtual_host_;
  Journal& journal_;
  Bodies& bodies_;
  Executor& executor_;
  std::map<std::string, Function, std::less<>> functions_;
  std::map<std::string, uint32_t, std::less<>> deploying_;  // version numbers given out
  std::map<uint64_t, VersionPtr> by_id_;                    // of all functions
  uint64_t last_id_ = 0;
  std::deque<Load> loads_;  // that wait for the executor or for room
  uint64_t loading_bytes_ = 0;
  std::deque<CallPtr> large_calls_;  // that wait for room
  uint64_t large_call_bytes_ = 0;    // of calls under way
  // Calls that could not be made, to be answered on the next turn.
  std::vector<std::function<void()>> refusals_;
  net::Wakeup refusals_wakeup_;
};

}  // namespace sluice::broker
