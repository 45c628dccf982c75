#include "broker/config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include <CLI/CLI.hpp>

#include "broker/threads/courier.h"

namespace sluice::broker {

namespace {

// HOST:PORT, with an IPv6 host in brackets.
bool parse_address(const std::string& text, Address& address) {
  size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  std::string host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const char* first = text.data() + colon + 1;
  const char* last = text.data() + text.size();
  auto [end, error] = std::from_chars(first, last, address.port);
  if (error != std::errc() || end != last) return false;
  address.host = std::move(host);
  return true;
}

void add_address(CLI::App& app, const std::string& flag, const char* variable, Address& address,
                 const std::string& help) {
  app.add_option_function<std::string>(
         flag,
         [&address, flag](const std::string& text) {
           if (!parse_address(text, address)) {
             throw CLI::ValidationError(flag, "'" + text + "' is not HOST:PORT");
           }
         },
         help + " [" + address.host + ":" + std::to_string(address.port) + "]")
      ->type_name("HOST:PORT")
      ->envname(variable);
}

}  // namespace

std::variant<Config, int> parse_config(int argc, char** argv) {
  Config config;
  CLI::App app{"sluiced: message broker with function triggers. AMQP 0-9-1 in, results out.",
               "sluiced"};
  app.set_version_flag("--version", "sluiced " SLUICE_VERSION);
  app.set_config("--config", "", "TOML file; its entries are named like the flags")
      ->envname("SLUICE_CONFIG");
  app.allow_config_extras(false);
  app.add_option("--data-dir", config.data_dir, "Where queues and functions are kept")
      ->envname("SLUICE_DATA_DIR")
      ->type_name("DIR")
      ->capture_default_str();
  add_address(app, "--listen", "SLUICE_LISTEN", config.listen, "AMQP; port 0 lets the kernel pick");
  add_address(app, "--admin", "SLUICE_ADMIN", config.admin, "Administration over HTTP");
  app.add_option(
         "--shards", config.shards,
         "Threads that queues and connections are spread over; more than one pays where the "
         "machine has cores to spare and the load many queues")
      ->envname("SLUICE_SHARDS")
      ->check(CLI::Range(1u, kShardsMax))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--message-memory", config.message_memory_bytes,
                 "What messages may take in RAM, with a unit; the others wait on disk [256MiB]")
      ->envname("SLUICE_MESSAGE_MEMORY")
      ->type_name("SIZE")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->check(CLI::Range(size_t{kMessageMemoryMinBytes}, SIZE_MAX));
  app.add_option("--executor", config.executor, "The sluice-executor program [beside sluiced]")
      ->envname("SLUICE_EXECUTOR")
      ->type_name("FILE");
  app.add_option("--sandbox", config.sandbox,
                 "What functions run in: kvm, or process where there is no KVM: a jailed process, "
                 "and nothing but the kernel's system calls between it and this machine")
      ->envname("SLUICE_SANDBOX")
      ->check(CLI::IsMember({"kvm", "process"}))
      ->type_name("KIND")
      ->capture_default_str();
  app.add_option("--sandbox-memory", config.sandbox_memory_bytes,
                 "What all sandboxes may take of the machine's memory, with a unit [half of it]")
      ->envname("SLUICE_SANDBOX_MEMORY")
      ->type_name("SIZE")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app.add_option("--sync", config.sync,
                 "What a power cut may take of what was confirmed: always (nothing), interval (the "
                 "last --sync-interval-ms), none (what the kernel had not written)")
      ->envname("SLUICE_SYNC")
      ->check(CLI::IsMember({"always", "interval", "none"}))
      ->type_name("MODE")
      ->capture_default_str();
  app.add_option("--sync-interval-ms", config.sync_interval_ms,
                 "With --sync interval: the longest that a confirmed message waits for its sync")
      ->envname("SLUICE_SYNC_INTERVAL_MS")
      ->check(CLI::Range(1, 3'600'000))
      ->type_name("MS")
      ->capture_default_str();
  app.add_option("--disk-free-min", config.disk_free_min_bytes,
                 "Publishers are blocked while less is free where the data is, as 512MiB [a "
                 "twentieth of the disk, at least 256MiB, at most 1GiB]")
      ->envname("SLUICE_DISK_FREE_MIN")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->type_name("SIZE");
  app.add_option("--log-level", config.log_level, "debug, info, warn or error")
      ->envname("SLUICE_LOG_LEVEL")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_flag("--check-config", config.check_only, "Check the configuration and end")
      ->configurable(false);
  // The library would let the file win over the environment. So the environment comes as flags in
  // front of the real ones, of which the last counts.
  std::vector<std::string> words;
  for (CLI::Option* option : app.get_options()) {
    if (option->get_envname().empty()) continue;
    option->take_last();
    const char* value = std::getenv(option->get_envname().c_str());
    if (value != nullptr) words.push_back("--" + option->get_lnames().front() + "=" + value);
  }
  words.insert(words.end(), argv + 1, argv + argc);
  std::ranges::reverse(words);  // as parse() wants them
  try {
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    int status = app.exit(error);
    return status == 0 ? 0 : 2;
  }
  if (config.check_only) {
    std::printf("configuration ok\n");
    return 0;
  }
  return config;
}

}  // namespace sluice::broker
