#include "broker/dispatch/function.h"

#include <openssl/evp.h>

#include "base/check.h"
#include "broker/dispatch/limits.h"
#include "broker/dispatch/names.h"

namespace sluice::broker {

namespace {

using namespace dispatch;

Expected<> check_range(const char* what, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return {};
  return fail(Code::kLimit, std::string(what) + " is between " + std::to_string(min) + " and " +
                                std::to_string(max) + ", not " + std::to_string(value));
}

Expected<> check_limits(const FunctionConfig& config) {
  const FunctionLimits& limits = config.limits;
  struct Range {
    const char* what;
    uint64_t value, min, max;
  };
  for (const Range& range : {
           Range{"memory_bytes", limits.memory_bytes, kMemoryMinBytes, kMemoryMaxBytes},
           Range{"timeout_ms", limits.timeout_ms, 1, kTimeoutMaxMs},
           Range{"cpu_ms", limits.cpu_ms, 0, kTimeoutMaxMs},
           Range{"output_bytes", limits.output_bytes, kOutputMinBytes, kOutputMaxBytes},
           Range{"log_bytes", limits.log_bytes, 0, kLogMaxBytes},
           Range{"open_files", limits.open_files, kOpenFilesMin, kOpenFilesMax},
           Range{"threads", limits.threads, 1, kThreadsMax},
           Range{"tmpfs_bytes", limits.tmpfs_bytes, 0, kTmpfsMaxBytes},
           Range{"concurrency", config.concurrency, 0, kConcurrencyMax},
       }) {
    if (auto ok = check_range(range.what, range.value, range.min, range.max); !ok) return ok;
  }
  return {};
}

Expected<> check_files(const FunctionConfig& config, const FunctionFiles& files) {
  auto too_large = [](const char* what, size_t bytes, size_t bytes_max) {
    return fail(Code::kLimit, std::string(what) + " has " + std::to_string(bytes) +
                                  " bytes; the limit is " + std::to_string(bytes_max));
  };
  if (files.image.size() > kImageMaxBytes) {
    return too_large("the image", files.image.size(), kImageMaxBytes);
  }
  if (files.rootfs.size() > kRootfsMaxBytes) {
    return too_large("the root file system", files.rootfs.size(), kRootfsMaxBytes);
  }
  if (files.image.empty() && files.rootfs.empty()) {
    return fail(Code::kInvalid, "the image is empty");
  }
  if (files.image.empty() && config.image_path.empty()) {
    return fail(Code::kInvalid,
                "image_path is missing: where the program lies in the root file system");
  }
  if (!files.image.empty() && !config.image_path.empty()) {
    return fail(Code::kInvalid,
                "there is an image and an image_path: the program is the one or the other");
  }
  if (config.image_path.size() > kPathMaxBytes ||
      config.image_path.find('\0') != std::string::npos) {
    return fail(Code::kLimit, "image_path is a path of at most " + std::to_string(kPathMaxBytes) +
                                  " bytes without NUL");
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

std::string text_of(const flatbuffers::String* text, const char* otherwise = "") {
  return text != nullptr ? text->str() : otherwise;
}

}  // namespace

Expected<> check(const std::string& name, const FunctionConfig& config,
                 const FunctionFiles& files) {
  if (!valid_name(name)) return fail(Code::kInvalid, "a function's " + std::string(kNameRule));
  if (auto ok = check_files(config, files); !ok) return ok;
  if (auto ok = check_limits(config); !ok) return ok;
  size_t bytes = config.image_name.size();
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

std::string write_record(const FunctionVersion& version) {
  const FunctionConfig& config = version.config;
  const FunctionLimits& limits = config.limits;
  flatbuffers::FlatBufferBuilder builder;
  auto name = builder.CreateString(version.name);
  auto sha256 = builder.CreateString(version.image_sha256);
  auto image_name = builder.CreateString(config.image_name);
  auto args = builder.CreateVectorOfStrings(config.args);
  auto env = builder.CreateVectorOfStrings(config.env);
  auto image_path = builder.CreateString(config.image_path);
  auto rootfs = builder.CreateString(version.rootfs_sha256);
  auto owner = builder.CreateString(config.owner);
  schema::FunctionRecordBuilder record(builder);
  record.add_name(name);
  record.add_version(version.version);
  record.add_id(version.id);
  record.add_image_sha256(sha256);
  record.add_image_name(image_name);
  record.add_image_bytes(version.image_bytes);
  record.add_args(args);
  record.add_env(env);
  record.add_memory_bytes(limits.memory_bytes);
  record.add_timeout_ms(limits.timeout_ms);
  record.add_created_at_ms(version.created_at_ms);
  record.add_cpu_ms(limits.cpu_ms);
  record.add_output_bytes(limits.output_bytes);
  record.add_log_bytes(limits.log_bytes);
  record.add_open_files(limits.open_files);
  record.add_threads(limits.threads);
  record.add_tmpfs_bytes(limits.tmpfs_bytes);
  record.add_concurrency(config.concurrency);
  record.add_image_path(image_path);
  record.add_rootfs_sha256(rootfs);
  record.add_rootfs_bytes(version.rootfs_bytes);
  record.add_owner(owner);
  record.add_protocol(version.protocol);
  builder.Finish(record.Finish());
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

Expected<std::shared_ptr<FunctionVersion>> read_record(const std::string& bytes) {
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  if (!verifier.VerifyBuffer<schema::FunctionRecord>(nullptr)) {
    return fail(Code::kCorrupt, "the catalog's record of a function is damaged");
  }
  const auto* record = flatbuffers::GetRoot<schema::FunctionRecord>(bytes.data());
  auto version = std::make_shared<FunctionVersion>();
  version->id = record->id();
  version->name = record->name()->str();
  version->version = record->version();
  version->config = {.image_name = record->image_name()->str(),
                     .args = texts(record->args()),
                     .env = texts(record->env()),
                     .limits = {.memory_bytes = record->memory_bytes(),
                                .timeout_ms = record->timeout_ms(),
                                .cpu_ms = record->cpu_ms(),
                                .output_bytes = record->output_bytes(),
                                .log_bytes = record->log_bytes(),
                                .open_files = record->open_files(),
                                .threads = record->threads(),
                                .tmpfs_bytes = record->tmpfs_bytes()},
                     .concurrency = record->concurrency(),
                     .image_path = text_of(record->image_path()),
                     .owner = text_of(record->owner(), "guest")};
  version->image_sha256 = record->image_sha256()->str();
  version->image_bytes = record->image_bytes();
  version->rootfs_sha256 = text_of(record->rootfs_sha256());
  version->rootfs_bytes = record->rootfs_bytes();
  version->created_at_ms = record->created_at_ms();
  version->protocol = record->protocol();
  return version;
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

}  // namespace sluice::broker
