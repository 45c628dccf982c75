#include "broker/dispatch/functions.h"

#include <algorithm>
#include <chrono>

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/dispatch/background.h"
#include "broker/dispatch/limits.h"

namespace sluice::broker {

namespace {

using namespace dispatch;
using storage::CatalogKind;

int64_t now_ms() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

std::string catalog_key(const FunctionVersion& version) {
  return version.name + '\0' + std::to_string(version.version);
}

}  // namespace

Functions::Functions(uv_loop_t* loop, storage::Store& store, VirtualHost& virtual_host,
                     Executor& executor)
    : loop_(loop),
      store_(store),
      virtual_host_(virtual_host),
      journal_(virtual_host.journal()),
      bodies_(virtual_host.bodies()),
      executor_(executor),
      refusals_wakeup_(loop, [this] {
        for (auto& answer : std::exchange(refusals_, {})) answer();
      }) {
  executor_.when_stats([this](uint64_t id, const FunctionStats& stats) {
    if (auto found = by_id_.find(id); found != by_id_.end()) found->second->stats = stats;
  });
}

Expected<> Functions::recover() {
  auto entries = store_.catalog(CatalogKind::kFunction);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto version = read_record(entry.value);
    if (!version) return std::unexpected(version.error());
    functions_[(*version)->name].versions.push_back(*version);
    by_id_.emplace((*version)->id, *version);
    last_id_ = std::max(last_id_, (*version)->id);
  }
  for (auto& [name, function] : functions_) {
    std::ranges::sort(function.versions, {}, [](const VersionPtr& v) { return v->version; });
    for (const VersionPtr& version : function.versions) {
      version->superseded = version != function.versions.back();
    }
  }
  return {};
}

bool Functions::uses_blob(std::string_view sha256) const {
  return std::ranges::any_of(functions_, [&](const auto& function) {
    return std::ranges::any_of(function.second.versions, [&](const VersionPtr& v) {
      return v->image_sha256 == sha256 || v->rootfs_sha256 == sha256;
    });
  });
}

// Blobs that are there already are not written again.
void Functions::save(const FunctionVersion& version, FunctionFiles& files) {
  storage::Batch& batch = journal_.changes();
  batch.definitions.push_back(
      {CatalogKind::kFunction, catalog_key(version), write_record(version)});
  auto put = [&](const std::string& sha256, std::string& bytes) {
    if (!sha256.empty() && !uses_blob(sha256)) batch.blobs.push_back({sha256, std::move(bytes)});
  };
  put(version.image_sha256, files.image);
  put(version.rootfs_sha256, files.rootfs);
}

Functions::VersionPtr Functions::newest(std::string_view name) const {
  auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : found->second.versions.back();
}

std::vector<Functions::VersionPtr> Functions::versions(std::string_view name) const {
  auto found = functions_.find(name);
  return found == functions_.end() ? std::vector<VersionPtr>() : found->second.versions;
}

std::vector<std::string> Functions::names() const {
  std::vector<std::string> names;
  for (const auto& [name, function] : functions_) names.push_back(name);
  return names;
}

CallLog* Functions::log(std::string_view name) {
  auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : &found->second.log;
}

void Functions::deploy(std::string name, FunctionConfig config, FunctionFiles files,
                       std::function<void(Expected<VersionPtr>)> done) {
  if (config.image_name.empty()) config.image_name = config.image_path;
  if (auto checked = check(name, config, files); !checked) {
    done(std::unexpected(checked.error()));
    return;
  }
  auto version = std::make_shared<FunctionVersion>();
  version->id = ++last_id_;
  version->name = name;
  uint32_t& number = deploying_[name];
  if (auto before = newest(name)) number = std::max(number, before->version);
  version->version = ++number;
  version->config = std::move(config);
  version->image_bytes = files.image.size();
  version->rootfs_bytes = files.rootfs.size();
  version->created_at_ms = now_ms();
  auto held = std::make_shared<FunctionFiles>(std::move(files));
  // Hashing a root file system takes as long as thousands of messages do.
  in_background(
      loop_,
      [version, held] {
        if (!held->image.empty()) version->image_sha256 = sha256_hex(held->image);
        if (!held->rootfs.empty()) version->rootfs_sha256 = sha256_hex(held->rootfs);
      },
      [this, version, held, done = std::move(done)] { deploy_hashed(version, held, done); });
}

void Functions::deploy_hashed(const VersionPtr& version,
                              const std::shared_ptr<FunctionFiles>& files,
                              std::function<void(Expected<VersionPtr>)> done) {
  load(version, files);
  auto checked = [this, version, files, done = std::move(done)] {
    deploy_checked(version, *files, done);
  };
  if (version->state == FunctionVersion::State::kLoading) {
    version->waiting.push_back(std::move(checked));
  } else {
    checked();
  }
}

void Functions::deploy_checked(const VersionPtr& version, FunctionFiles& files,
                               std::function<void(Expected<VersionPtr>)> done) {
  if (version->state == FunctionVersion::State::kFailed) {
    executor_.unload(version->id);
    done(fail(Code::kInvalid, version->state_reason));
    return;
  }
  VirtualHost::Change change(virtual_host_);
  save(*version, files);
  auto& versions = functions_[version->name].versions;
  versions.insert(std::ranges::upper_bound(versions, version->version, {},
                                           [](const VersionPtr& v) { return v->version; }),
                  version);
  by_id_.emplace(version->id, version);
  // Nobody calls an older version any more.
  for (const VersionPtr& older : versions) {
    if (older != versions.back()) supersede(older);
  }
  journal_.when_durable([version, done = std::move(done)] {
    spdlog::info("function {} version {} deployed", version->name, version->version);
    done(version);
  });
}

// Calls that are under way keep it loaded until they end.
void Functions::supersede(const VersionPtr& version) {
  version->superseded = true;
  unload_superseded(*version);
}

void Functions::unload_superseded(FunctionVersion& version) {
  if (!version.superseded || version.pending > 0 ||
      version.state != FunctionVersion::State::kReady) {
    return;
  }
  executor_.unload(version.id);
  version.state = FunctionVersion::State::kUnloaded;
  version.stats.reset();
}

void Functions::remove(std::string_view name, std::function<void(Expected<>)> done) {
  auto found = functions_.find(name);
  if (found == functions_.end()) {
    done(fail(Code::kNotFound, "no function '" + std::string(name) + "'"));
    return;
  }
  VirtualHost::Change change(virtual_host_);
  auto removed = std::move(found->second.versions);
  functions_.erase(found);
  for (const VersionPtr& version : removed) {
    by_id_.erase(version->id);
    executor_.unload(version->id);
    version->superseded = true;  // where it is still being loaded
    journal_.changes().definitions.push_back(
        {CatalogKind::kFunction, catalog_key(*version), std::nullopt});
    for (const std::string& sha256 : {version->image_sha256, version->rootfs_sha256}) {
      if (sha256.empty() || uses_blob(sha256)) continue;
      journal_.changes().blobs.push_back({sha256, std::nullopt});
    }
  }
  journal_.when_durable([done = std::move(done)] { done({}); });
}

void Functions::load(const VersionPtr& version, std::shared_ptr<FunctionFiles> files) {
  version->state = FunctionVersion::State::kLoading;
  version->state_reason.clear();
  loads_.push_back({version, std::move(files)});
  executor_.when_up([this] { start_loads(); });
}

void Functions::start_loads() {
  while (!loads_.empty() &&
         (loading_bytes_ == 0 || loading_bytes_ + loads_.front().bytes() <= kLoadsMaxBytes)) {
    Load load = std::move(loads_.front());
    loads_.pop_front();
    loading_bytes_ += load.bytes();
    if (load.files != nullptr) {
      load_now(load);
    } else {
      read_files(std::move(load));
    }
  }
}

void Functions::read_files(Load load) {
  auto files = std::make_shared<Expected<FunctionFiles>>();
  auto read = [&store = store_, files, version = load.version] {
    auto blob = [&](const std::string& sha256, std::string& to) {
      if (sha256.empty() || !*files) return;
      auto bytes = store.blob(sha256);
      if (bytes) {
        to = std::move(*bytes);
      } else {
        *files = std::unexpected(bytes.error());
      }
    };
    FunctionFiles found;
    blob(version->image_sha256, found.image);
    blob(version->rootfs_sha256, found.rootfs);
    if (*files) *files = std::move(found);
  };
  in_background(loop_, std::move(read), [this, files, load = std::move(load)]() mutable {
    if (!*files) {
      load_ended(load, {.outcome = schema::Outcome::unavailable,
                        .message = "the image can not be read: " + files->error().message});
      return;
    }
    load.files = std::make_shared<FunctionFiles>(std::move(**files));
    load_now(load);
  });
}

void Functions::load_now(const Load& load) {
  if (executor_.state() != Executor::State::kRunning &&
      executor_.state() != Executor::State::kUnavailable) {
    load_ended(load, {.outcome = schema::Outcome::unavailable, .message = executor_.reason()});
    return;
  }
  const FunctionVersion& version = *load.version;
  const FunctionConfig& config = version.config;
  executor_.load({.id = version.id,
                  .name = version.name,
                  .owner = config.owner,
                  .argv0 = config.image_name,
                  .image = load.files->image,
                  .rootfs = load.files->rootfs,
                  .image_path = config.image_path,
                  .args = config.args,
                  .env = config.env,
                  .limits = config.limits,
                  .concurrency = config.concurrency},
                 // Without the files: what was sent is not kept.
                 [this, load = Load{load.version, nullptr}](const LoadResult& result) {
                   load_ended(load, result);
                 });
}

void Functions::load_ended(const Load& load, const LoadResult& result) {
  loading_bytes_ -= load.bytes();
  loaded(load.version, result);
  start_loads();
}

void Functions::loaded(const VersionPtr& version, const LoadResult& result) {
  using State = FunctionVersion::State;
  switch (result.outcome) {
    case schema::Outcome::ok:
      version->state = State::kReady;
      version->protocol = result.speaks_protocol ? schema::FunctionProtocol::frames
                                                 : schema::FunctionProtocol::plain;
      break;
    case schema::Outcome::bad_image:
      version->state = State::kFailed;
      break;
    default:  // for reasons of the executor's: tried again at the next call
      version->state = State::kUnavailable;
      break;
  }
  version->state_reason = result.message;
  version->at_first_read = result.at_first_read;
  version->load_us = result.load_us;
  for (auto& waiter : std::exchange(version->waiting, {})) waiter();
  unload_superseded(*version);
}

void Functions::executor_changed() {
  // A new executor has nothing loaded; the old one's answers have come or will not.
  for (auto& [name, function] : functions_) {
    for (const VersionPtr& version : function.versions) {
      version->stats.reset();
      if (version->state != FunctionVersion::State::kLoading) {
        version->state = FunctionVersion::State::kUnloaded;
      }
    }
  }
}

void Functions::prepare(const VersionPtr& version) {
  using State = FunctionVersion::State;
  if (version->state == State::kUnloaded || version->state == State::kUnavailable) {
    load(version, nullptr);
  }
}

}  // namespace sluice::broker
