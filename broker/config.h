#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "storage/limits.h"

namespace sluice::broker {

struct Address {
  std::string host;
  uint16_t port = 0;
};

inline constexpr size_t kMessageMemoryMinBytes = 1u << 20;

// What the broker is started with. Each option is a flag, an entry of the TOML file that --config
// names, and an environment variable (SLUICE_ and the flag in capitals); the flag wins, then the
// variable, then the file.
struct Config {
  std::string data_dir = "sluice-data";
  Address listen{"127.0.0.1", 5672};
  Address admin{"127.0.0.1", 15672};
  unsigned shards = 1;                       // threads that messages are handled on
  size_t message_memory_bytes = 256u << 20;  // what messages may take in RAM
  std::string executor;                      // path of sluice-executor; empty: beside this program
  std::string sandbox = "kvm";               // or process
  uint64_t sandbox_memory_bytes = 0;         // of all sandboxes; 0: half of the machine's
  std::string sync = "always";               // or interval, none: storage::SyncMode
  uint64_t sync_interval_ms = storage::kSyncIntervalMs;
  uint64_t disk_free_min_bytes = 0;  // 0: see DiskAlarm
  std::string log_level = "info";
  bool check_only = false;
};

// The configuration, or the exit status to end with at once (help, version, a mistake; what is to
// be said has been printed).
std::variant<Config, int> parse_config(int argc, char** argv);

}  // namespace sluice::broker
