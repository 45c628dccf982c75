// sluiced: opens the store, recovers, serves until SIGTERM or SIGINT, and stops cleanly.

#include <csignal>
#include <cstdio>
#include <filesystem>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include "broker/admin/api.h"
#include "broker/config.h"
#include "broker/disk_alarm.h"
#include "broker/dispatch/dispatcher.h"
#include "broker/shards.h"
#include "storage/rocksdb/rocksdb_store.h"

// jemalloc reads it: memory that a burst took is given back a second after, not whenever, and until
// then it is used again, whatever its size was. By default the space of freed neighbours that has
// grown to 64 times what is asked for is left alone, and what is larger than 8 MiB is given back at
// once, so that every message of 16 KiB was written to pages new from the kernel.
extern "C" {
extern const char* malloc_conf;
const char* malloc_conf =
    "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,"
    "lg_extent_max_active_fit:16,oversize_threshold:0";
}

namespace sluice::broker {
namespace {

// sysexits.h: an input/output error.
constexpr int kExitIo = 74;

void set_up_logging(const std::string& level) {
  auto logger = spdlog::stderr_logger_mt("sluiced");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  logger->set_level(spdlog::level::from_str(level == "warn" ? "warning" : level));
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(logger);
  spdlog::flush_every(std::chrono::seconds(0));
}

// Connections and database files each need a descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

std::string node_name() {
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  return std::string("sluice@") + host;
}

// A write or sync failed: what reached the disk is unknown, so nothing may be confirmed any more.
// Only recovery from the disk can tell; the process ends without another word to its clients.
void store_failed(const Error& error) {
  spdlog::critical("the store failed, stopping at once; a restart recovers: {}", error.message);
  spdlog::shutdown();
  _exit(kExitIo);
}

// The executor is installed beside the broker, or lies beside it in the build folder.
std::string find_executor(const std::string& given) {
  if (!given.empty()) return given;
  std::error_code error;
  auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* place :
       {"sluice-executor", "../executor/sluice-executor", "../libexec/sluice/sluice-executor"}) {
    auto path = folder / place;
    if (std::filesystem::exists(path, error)) return std::filesystem::canonical(path, error);
  }
  return folder / "sluice-executor";
}

// What the executor would do anyway is not said to it.
std::vector<std::string> executor_arguments(const Config& config) {
  std::vector<std::string> arguments;
  if (config.sandbox != Config().sandbox) {
    arguments.insert(arguments.end(), {"--sandbox", config.sandbox});
  }
  if (config.sandbox_memory_bytes != 0) {
    arguments.insert(arguments.end(),
                     {"--memory-budget", std::to_string(config.sandbox_memory_bytes)});
  }
  return arguments;
}

storage::SyncMode sync_mode(const std::string& name) {
  if (name == "interval") return storage::SyncMode::kInterval;
  return name == "none" ? storage::SyncMode::kNone : storage::SyncMode::kAlways;
}

int fail_start(const Error& error) {
  spdlog::critical("{}", error.message);
  return 1;
}

class Process {
 public:
  explicit Process(Config config) : config_(std::move(config)) {}

  int run() {
    auto store = storage::open_rocksdb(
        {.directory = config_.data_dir,
         .sync = sync_mode(config_.sync),
         .sync_interval = std::chrono::milliseconds(config_.sync_interval_ms)});
    if (!store) return fail_start(store.error());
    store_ = std::move(*store);
    uv_loop_t* loop = uv_default_loop();
    shards_ = std::make_unique<Shards>(config_.shards, loop, *store_, node_name(),
                                       config_.message_memory_bytes, store_failed);
    Shard& first = shards_->first();
    if (auto done = first.virtual_host().recover(); !done) return fail_start(done.error());
    dispatcher_ =
        std::make_unique<Dispatcher>(loop, first.virtual_host(), *store_, first.server().flushes(),
                                     find_executor(config_.executor), executor_arguments(config_));
    if (auto done = dispatcher_->recover(); !done) return fail_start(done.error());
    disk_alarm_ = std::make_unique<DiskAlarm>(
        loop, config_.data_dir, config_.disk_free_min_bytes,
        DiskAlarm::Events{.unwritten_bytes = [this] { return shards_->unwritten_bytes(); },
                          .changed = [this] { tell_alarm(); },
                          .reclaim = [this] { store_->reclaim(); }});
    if (auto done = disk_alarm_->start(); !done) return fail_start(done.error());
    http_ = std::make_unique<admin::HttpServer>(*shards_);
    admin::add_overview(*http_, *shards_, *dispatcher_, config_, *disk_alarm_);
    admin::add_topology(*http_, first.virtual_host());
    admin::add_functions(*http_, *dispatcher_, loop);
    admin::add_subscriptions(*http_, *dispatcher_);
    shards_->start();
    if (auto done = http_->listen(config_.admin.host, config_.admin.port); !done) {
      return fail_start(done.error());
    }
    if (auto done = shards_->listen(config_.listen.host, config_.listen.port); !done) {
      return fail_start(done.error());
    }
    terminate_ = std::make_unique<net::Signal>(loop, SIGTERM, [this] { stop(); });
    interrupt_ = std::make_unique<net::Signal>(loop, SIGINT, [this] { stop(); });
    dispatcher_->start();
    std::printf("sluiced ready: amqp %s:%u, admin %s:%u, data %s\n", shards_->host().c_str(),
                shards_->port(), config_.admin.host.c_str(), http_->port(),
                std::filesystem::absolute(config_.data_dir).c_str());
    std::fflush(stdout);
    uv_run(loop, UV_RUN_DEFAULT);
    return close();
  }

 private:
  void tell_alarm() {
    std::optional<std::string> reason;
    if (disk_alarm_->on()) reason = disk_alarm_->reason();
    shards_->post_all([reason](Shard& shard) {
      if (reason) {
        shard.server().block_publishing(*reason);
      } else {
        shard.server().unblock_publishing();
      }
    });
  }

  void stop() {
    if (stopping_) return;
    stopping_ = true;
    spdlog::info("stopping");
    http_->stop();
    shards_->stop([this] {
      dispatcher_->stop();
      // What that made to be written is written before the loops end.
      shards_->first().virtual_host().when_all_durable([] { uv_stop(uv_default_loop()); });
    });
  }

  int close() {
    shards_->join();
    std::vector<storage::Store::Delivered> delivered;
    for (const auto& [name, queue] : shards_->first().virtual_host().queues()) {
      if (queue->durable()) queue->collect_delivered(delivered);
    }
    if (auto closed = store_->close(delivered); !closed) {
      spdlog::critical("{}", closed.error().message);
      return kExitIo;
    }
    spdlog::info("stopped");
    return 0;
  }

  const Config config_;
  std::unique_ptr<storage::Store> store_;
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<DiskAlarm> disk_alarm_;
  std::unique_ptr<admin::HttpServer> http_;
  std::unique_ptr<net::Signal> terminate_, interrupt_;
  bool stopping_ = false;
};

}  // namespace
}  // namespace sluice::broker

int main(int argc, char** argv) {
  using namespace sluice::broker;
  auto parsed = parse_config(argc, argv);
  if (auto* status = std::get_if<int>(&parsed)) return *status;
  auto& config = std::get<Config>(parsed);
  signal(SIGPIPE, SIG_IGN);
  set_up_logging(config.log_level);
  raise_descriptor_limit();
  // Left to the end of the process: the handles of a stopped loop have nobody to close them.
  auto* process = new Process(std::move(config));
  int status = process->run();
  spdlog::shutdown();
  _exit(status);
}
