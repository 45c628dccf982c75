#include "broker/dispatch/functions.h"

#include <algorithm>
#include <chrono>

#include <openssl/evp.h>
#include <spdlog/spdlog.h>

#include "base/check.h"
#include "broker/dispatch/limits.h"
#include "broker/dispatch/names.h"
#include "schemas/catalog_generated.h"

namespace sluice::broker {

namespace {

using namespace dispatch;
using storage::CatalogKind;

int64_t now_ms() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

std::string sha256_hex(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned i = 0; i < length; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

std::string catalog_key(const FunctionVersion& version) {
  return version.name + '\0' + std::to_string(version.version);
}

Expected<> check(const std::string& name, const FunctionConfig& config, const std::string& image) {
  if (!valid_name(name)) return fail(Code::kInvalid, "a function's " + std::string(kNameRule));
  if (image.empty()) return fail(Code::kInvalid, "the image is empty");
  if (image.size() > kImageMaxBytes) {
    return fail(Code::kLimit, "the image has " + std::to_string(image.size()) +
                                  " bytes; the limit is " + std::to_string(kImageMaxBytes));
  }
  if (config.memory_bytes < kMemoryMinBytes || config.memory_bytes > kMemoryMaxBytes) {
    return fail(Code::kLimit, "memory is between " + std::to_string(kMemoryMinBytes) + " and " +
                                  std::to_string(kMemoryMaxBytes) + " bytes");
  }
  if (config.timeout_ms == 0 || config.timeout_ms > kTimeoutMaxMs) {
    return fail(Code::kLimit,
                "the timeout is between 1 and " + std::to_string(kTimeoutMaxMs) + " ms");
  }
  size_t bytes = 0;
  for (const auto* list : {&config.args, &config.env}) {
    if (list->size() > kArgumentsMax) {
      return fail(Code::kLimit, "at most " + std::to_string(kArgumentsMax) +
                                    " arguments and environment entries each");
    }
    for (const std::string& text : *list) {
      bytes += text.size() + 1;
      if (text.find('\0') != std::string::npos) {
        return fail(Code::kInvalid, "an argument or environment entry holds a NUL byte");
      }
    }
  }
  if (bytes > kArgumentsMaxBytes) {
    return fail(Code::kLimit, "arguments and environment have more than " +
                                  std::to_string(kArgumentsMaxBytes) + " bytes");
  }
  return {};
}

std::vector<std::string> texts(
    const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* vector) {
  std::vector<std::string> list;
  if (vector == nullptr) return list;
  for (const auto* text : *vector) list.push_back(text->str());
  return list;
}

}  // namespace

Functions::Functions(uv_loop_t* loop, storage::Store& store, VirtualHost& virtual_host,
                     Executor& executor)
    : store_(store),
      virtual_host_(virtual_host),
      journal_(virtual_host.journal()),
      bodies_(virtual_host.bodies()),
      executor_(executor),
      refusals_wakeup_(loop, [this] {
        for (auto& answer : std::exchange(refusals_, {})) answer();
      }) {}

Expected<> Functions::recover() {
  auto entries = store_.catalog(CatalogKind::kFunction);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto version = read(entry);
    if (!version) return std::unexpected(version.error());
    functions_[(*version)->name].versions.push_back(*version);
    last_id_ = std::max(last_id_, (*version)->id);
  }
  for (auto& [name, function] : functions_) {
    std::ranges::sort(function.versions, {}, [](const VersionPtr& v) { return v->version; });
  }
  return {};
}

Expected<Functions::VersionPtr> Functions::read(const storage::CatalogEntry& entry) {
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(entry.value.data()),
                                 entry.value.size());
  if (!verifier.VerifyBuffer<schema::FunctionRecord>(nullptr)) {
    return fail(Code::kCorrupt, "the catalog's record of a function is damaged");
  }
  const auto* record = flatbuffers::GetRoot<schema::FunctionRecord>(entry.value.data());
  auto version = std::make_shared<FunctionVersion>();
  version->id = record->id();
  version->name = record->name()->str();
  version->version = record->version();
  version->config = {record->image_name()->str(), texts(record->args()), texts(record->env()),
                     record->memory_bytes(), record->timeout_ms()};
  version->image_sha256 = record->image_sha256()->str();
  version->image_bytes = record->image_bytes();
  version->created_at_ms = record->created_at_ms();
  return version;
}

void Functions::save(const FunctionVersion& version, std::string image) {
  flatbuffers::FlatBufferBuilder builder;
  auto name = builder.CreateString(version.name);
  auto sha256 = builder.CreateString(version.image_sha256);
  auto image_name = builder.CreateString(version.config.image_name);
  auto args = builder.CreateVectorOfStrings(version.config.args);
  auto env = builder.CreateVectorOfStrings(version.config.env);
  builder.Finish(schema::CreateFunctionRecord(
      builder, name, version.version, version.id, sha256, image_name, version.image_bytes, args,
      env, version.config.memory_bytes, version.config.timeout_ms, version.created_at_ms));
  storage::Batch& batch = journal_.changes();
  batch.definitions.push_back(
      {CatalogKind::kFunction, catalog_key(version),
       std::string(reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize())});
  batch.blobs.push_back({version.image_sha256, std::move(image)});
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

void Functions::deploy(std::string name, FunctionConfig config, std::string image,
                       std::function<void(Expected<VersionPtr>)> done) {
  if (auto checked = check(name, config, image); !checked) {
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
  version->image_sha256 = sha256_hex(image);
  version->image_bytes = image.size();
  version->created_at_ms = now_ms();
  load(version, image);
  auto checked = [this, version, image = std::move(image), done = std::move(done)]() mutable {
    deploy_checked(version, std::move(image), std::move(done));
  };
  if (version->state == FunctionVersion::State::kLoading) {
    version->waiting.push_back(
        [checked = std::make_shared<decltype(checked)>(std::move(checked))] { (*checked)(); });
  } else {
    checked();
  }
}

void Functions::deploy_checked(const VersionPtr& version, std::string image,
                               std::function<void(Expected<VersionPtr>)> done) {
  if (version->state == FunctionVersion::State::kFailed) {
    executor_.unload(version->id);
    done(fail(Code::kInvalid, version->state_reason));
    return;
  }
  VirtualHost::Change change(virtual_host_);
  save(*version, std::move(image));
  auto& versions = functions_[version->name].versions;
  // Nobody calls an older version any more. Calls under way end as usual.
  for (const VersionPtr& older : versions) unload(older);
  versions.insert(std::ranges::upper_bound(versions, version->version, {},
                                           [](const VersionPtr& v) { return v->version; }),
                  version);
  journal_.when_durable([version, done = std::move(done)] {
    spdlog::info("function {} version {} deployed", version->name, version->version);
    done(version);
  });
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
    executor_.unload(version->id);
    journal_.changes().definitions.push_back(
        {CatalogKind::kFunction, catalog_key(*version), std::nullopt});
    bool shared = std::ranges::any_of(functions_, [&](const auto& other) {
      return std::ranges::any_of(other.second.versions, [&](const VersionPtr& v) {
        return v->image_sha256 == version->image_sha256;
      });
    });
    if (!shared) journal_.changes().blobs.push_back({version->image_sha256, std::nullopt});
  }
  journal_.when_durable([done = std::move(done)] { done({}); });
}

void Functions::unload(const VersionPtr& version) {
  if (version->state != FunctionVersion::State::kReady) return;
  executor_.unload(version->id);
  version->state = FunctionVersion::State::kUnloaded;
}

void Functions::load(const VersionPtr& version, std::string image) {
  version->state = FunctionVersion::State::kLoading;
  version->state_reason.clear();
  executor_.when_up(
      [this, version, image = std::move(image)]() mutable { load_now(version, std::move(image)); });
}

void Functions::load_now(const VersionPtr& version, std::string image) {
  if (executor_.state() != Executor::State::kRunning &&
      executor_.state() != Executor::State::kUnavailable) {
    loaded(version, {.outcome = schema::Outcome::unavailable, .message = executor_.reason()});
    return;
  }
  executor_.load({version->id, version->name, version->config.image_name, std::move(image),
                  version->config.args, version->config.env, version->config.memory_bytes,
                  version->config.timeout_ms},
                 [this, version](const LoadResult& result) { loaded(version, result); });
}

void Functions::loaded(const VersionPtr& version, const LoadResult& result) {
  using State = FunctionVersion::State;
  switch (result.outcome) {
    case schema::Outcome::ok:
      version->state = State::kReady;
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
}

void Functions::executor_changed() {
  // A new executor has nothing loaded; the old one's answers have come or will not.
  for (auto& [name, function] : functions_) {
    for (const VersionPtr& version : function.versions) {
      if (version->state != FunctionVersion::State::kLoading) {
        version->state = FunctionVersion::State::kUnloaded;
      }
    }
  }
}

void Functions::prepare(const VersionPtr& version) {
  using State = FunctionVersion::State;
  if (version->state != State::kUnloaded && version->state != State::kUnavailable) return;
  auto image = store_.blob(version->image_sha256);
  if (image) {
    load(version, std::move(*image));
  } else {
    version->state = State::kUnavailable;
    version->state_reason = "the image can not be read: " + image.error().message;
  }
}

void Functions::call(const VersionPtr& version, amqp::Bytes input, Caller caller,
                     std::function<void(CallResult)> done) {
  prepare(version);
  if (version->state == FunctionVersion::State::kLoading) {
    version->waiting.push_back([this, version, input, caller = std::move(caller),
                                done = std::move(done)] { run(version, input, caller, done); });
    return;
  }
  run(version, input, std::move(caller), std::move(done));
}

void Functions::call(const VersionPtr& version, const storage::BodyPtr& input, Caller caller,
                     std::function<void(CallResult)> done) {
  if (input->bytes() > kInputMaxBytes) {
    CallResult result{.outcome = schema::Outcome::input_limit,
                      .message = "the message has " + std::to_string(input->bytes()) +
                                 " bytes; a function takes at most " +
                                 std::to_string(kInputMaxBytes)};
    note(*version, caller, result);
    refuse_later(std::move(result), std::move(done));
    return;
  }
  large_inputs_.push_back({version, input, std::move(caller), std::move(done)});
  start_large_inputs();
}

void Functions::start_large_inputs() {
  while (!large_inputs_.empty() &&
         large_input_bytes_ + large_inputs_.front().body->bytes() <= kLargeInputsMaxBytes) {
    LargeInput input = std::move(large_inputs_.front());
    large_inputs_.pop_front();
    call_large(std::move(input));
  }
}

void Functions::call_large(LargeInput input) {
  uint64_t bytes = input.body->bytes();
  large_input_bytes_ += bytes;
  auto finished = [this, bytes, done = std::move(input.done)](CallResult result) {
    large_input_bytes_ -= bytes;
    start_large_inputs();
    done(std::move(result));
  };
  bodies_.read_whole(input.body, [this, version = input.version, caller = input.caller,
                                  finished](Expected<std::string> read) {
    if (!read) {
      CallResult result{.outcome = schema::Outcome::internal,
                        .message = "the message can not be read: " + read.error().message};
      note(*version, caller, result);
      finished(std::move(result));
      return;
    }
    auto held = std::make_shared<std::string>(std::move(*read));
    call(version, amqp::as_bytes(*held), caller,
         [held, finished](CallResult result) { finished(std::move(result)); });
  });
}

void Functions::run(const VersionPtr& version, amqp::Bytes input, Caller caller,
                    std::function<void(CallResult)> done) {
  using State = FunctionVersion::State;
  if (version->state != State::kReady) {
    CallResult result{.outcome = version->state == State::kFailed ? schema::Outcome::bad_image
                                                                  : schema::Outcome::unavailable,
                      .message = version->state_reason};
    note(*version, caller, result);
    refuse_later(std::move(result), std::move(done));
    return;
  }
  executor_.invoke(
      version->id, input,
      [this, version, caller = std::move(caller), done = std::move(done)](CallResult result) {
        note(*version, caller, result);
        done(std::move(result));
      });
}

void Functions::refuse_later(CallResult result, std::function<void(CallResult)> done) {
  refusals_.push_back([result = std::move(result), done = std::move(done)] { done(result); });
  refusals_wakeup_.send();
}

void Functions::note(const FunctionVersion& version, const Caller& caller,
                     const CallResult& result) {
  auto found = functions_.find(version.name);
  if (found == functions_.end()) return;
  auto at = std::ranges::find(found->second.versions, version.id,
                              [](const VersionPtr& v) { return v->id; });
  if (at == found->second.versions.end()) return;
  ++(*at)->calls;
  if (!result.ok()) ++(*at)->failures;
  if (result.ok() && result.log.empty()) return;
  found->second.log.add({.time_ms = now_ms(),
                         .version = version.version,
                         .source = caller.source,
                         .attempt = caller.attempt,
                         .outcome = result.outcome,
                         .message = result.message,
                         .log = result.log});
}

}  // namespace sluice::broker
