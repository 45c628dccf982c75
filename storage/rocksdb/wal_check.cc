#include "storage/rocksdb/wal_check.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "storage/rocksdb/engine.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/log_format.h"

namespace sluice::storage {
namespace {

using namespace log_format;

constexpr size_t kBatchHeaderBytes = 12;  // a write's sequence number (8) and number of changes (4)
constexpr size_t kMarkAt = kBatchHeaderBytes + 2;  // see starts_with_mark()
constexpr size_t kHeadBytes = kMarkAt + std::max(kOpenedMark.size(), kSyncedMarkBytes);

std::string log_name(uint64_t number) { return fmt::format("{:06}.log", number); }

// NUMBER.log; RocksDB's other logs are called LOG.
std::optional<uint64_t> log_number(const std::string& name) {
  uint64_t number = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || std::string_view(end) != ".log") return std::nullopt;
  return number;
}

// The numbers of all logs, oldest first.
Expected<std::vector<uint64_t>> logs_in(rocksdb::Env* env, const std::string& directory) {
  std::vector<std::string> names;
  if (auto status = env->GetChildren(directory, &names); !status.ok()) {
    return std::unexpected(to_error(status, "reading the data directory"));
  }
  std::vector<uint64_t> logs;
  for (const std::string& name : names) {
    if (auto number = log_number(name)) logs.push_back(*number);
  }
  std::ranges::sort(logs);
  return logs;
}

// Whether `data` is valid fragments up to its end: what a message's body could imitate by chance
// (or by intent) only if it knew where in the block it will lie.
bool is_chain(std::span<const uint8_t> data) {
  bool any = false;
  while (data.size() >= kHeaderBytes) {
    auto fragment = fragment_at(data);
    if (!fragment) return false;
    any = true;
    data = data.subspan(kHeaderBytes + fragment->payload.size());
  }
  return any && std::ranges::all_of(data, [](uint8_t byte) { return byte == 0; });
}

// Whether the first entry of the write that starts with `head` is log data (tag 3, length, bytes)
// of that length which begins with `mark`.
bool starts_with_mark(std::span<const uint8_t> head, std::string_view mark, size_t bytes) {
  if (head.size() < kMarkAt + bytes) return false;
  return head[kBatchHeaderBytes] == 3 && head[kBatchHeaderBytes + 1] == bytes &&
         std::ranges::equal(head.subspan(kMarkAt, mark.size()), mark);
}
// Their length is a varint of one byte.
static_assert(kOpenedMark.size() < 128 && kSyncedMarkBytes < 128);

// Whether the write is one of opening.
bool opens(std::span<const uint8_t> head) {
  return starts_with_mark(head, kOpenedMark, kOpenedMark.size());
}

// All changes below this sequence number were synced when the write that starts with `head` was
// made.
uint64_t synced_below(std::span<const uint8_t> head) {
  if (starts_with_mark(head, kSyncedMark, kSyncedMarkBytes)) {
    return get_be64(reinterpret_cast<const char*>(head.data()) + kMarkAt + kSyncedMark.size());
  }
  return get_le<uint64_t>(head.data());
}

// Goes through all logs of a directory, oldest first.
class WalCheck {
 public:
  Expected<> file(rocksdb::Env* env, const std::string& directory, uint64_t log);

  WalSummary summary() const {
    return {.next_sequence = std::max(next_sequence_.value_or(0), synced_below_),
            .empty = !first_sequence_,
            .first_sequence = first_sequence_.value_or(0),
            .cut = cut_};
  }

  // Where the logs end in an unfinished write.
  std::optional<std::string> torn_at() const {
    if (!damage_) return std::nullopt;
    return damage_->text();
  }

 private:
  struct Place {
    uint64_t log;
    uint64_t offset;
    std::string text() const { return fmt::format("{} at byte {}", log_name(log), offset); }
  };

  Expected<> block(std::span<const uint8_t> data);
  Expected<> fragment(const Fragment& fragment);
  Expected<> write_ended();
  void damaged(uint64_t offset) { damaged(Place{log_, offset}); }
  void damaged(const Place& place) {
    if (!damage_) damage_ = place;
  }

  uint64_t log_ = 0;
  uint64_t offset_ = 0;        // of what is being looked at, in its file
  std::vector<uint8_t> head_;  // the first kHeadBytes of the write being read
  bool in_write_ = false;
  uint64_t write_at_ = 0;  // where that write began
  std::optional<uint64_t> first_sequence_;
  std::optional<uint64_t> next_sequence_;  // what the next write must have
  std::optional<Place> damage_;            // the first damage since the last good write
  std::optional<Place> zeros_;             // where the last log ends, if nothing missing follows
  uint64_t synced_below_ = 0;              // said by writes behind the damage
  std::optional<WalSummary::Cut> cut_;     // where it is an end, and writes follow
};

Expected<> WalCheck::file(rocksdb::Env* env, const std::string& directory, uint64_t log) {
  log_ = log;
  std::unique_ptr<rocksdb::SequentialFile> file;
  auto status =
      env->NewSequentialFile(directory + "/" + log_name(log), &file, rocksdb::EnvOptions());
  std::vector<char> buffer(kBlockBytes);
  for (uint64_t at = 0; status.ok();) {
    rocksdb::Slice got;
    status = file->Read(kBlockBytes, &got, buffer.data());
    if (!status.ok() || got.empty()) break;
    offset_ = at;
    at += got.size();
    if (auto good = block({reinterpret_cast<const uint8_t*>(got.data()), got.size()}); !good) {
      return good;
    }
  }
  if (!status.ok()) return std::unexpected(to_error(status, "reading the write-ahead log"));
  if (in_write_) damaged(write_at_);
  in_write_ = false;
  return {};
}

Expected<> WalCheck::block(std::span<const uint8_t> data) {
  while (data.size() >= kHeaderBytes) {
    auto found = fragment_at(data);
    if (!found && std::ranges::all_of(data, [](uint8_t byte) { return byte == 0; })) {
      if (!zeros_ || zeros_->log != log_) zeros_ = Place{log_, in_write_ ? write_at_ : offset_};
      return {};
    }
    if (zeros_ && zeros_->log == log_) {  // not its end, then
      damaged(*zeros_);
      zeros_.reset();
      in_write_ = false;
    }
    if (!found) {
      damaged(in_write_ ? write_at_ : offset_);
      in_write_ = false;
    }
    size_t skip = found ? kHeaderBytes + found->payload.size() : 1;
    if (found) {
      if (auto good = fragment(*found); !good) return good;
    } else {
      while (skip < data.size() && !is_chain(data.subspan(skip))) ++skip;
    }
    offset_ += skip;
    data = data.subspan(skip);
  }
  return {};
}

Expected<> WalCheck::fragment(const Fragment& fragment) {
  bool begins = fragment.type == kFull || fragment.type == kFirst;
  if (begins && in_write_) damaged(write_at_);  // that one has no end
  if (!begins && !in_write_) {                  // this one has no beginning
    damaged(offset_);
    return {};
  }
  if (begins) {
    in_write_ = true;
    write_at_ = offset_;
    head_.clear();
  }
  auto wanted = std::min(kHeadBytes - head_.size(), fragment.payload.size());
  head_.insert(head_.end(), fragment.payload.begin(), fragment.payload.begin() + wanted);
  return fragment.type == kFull || fragment.type == kLast ? write_ended() : Expected<>();
}

Expected<> WalCheck::write_ended() {
  uint64_t at = write_at_;
  in_write_ = false;
  if (head_.size() < kBatchHeaderBytes) {
    damaged(at);
    return {};
  }
  auto sequence = get_le<uint64_t>(head_.data());
  auto count = get_le<uint32_t>(head_.data() + 8);
  // Recovery drops a torn end and numbers on from the last good write. RocksDB leaves a write of
  // nothing to say so; ours says that all older logs are done with, which may still lie around.
  bool continues = next_sequence_ == sequence || count == 0;
  if (!continues && zeros_) damaged(*zeros_);
  if (damage_ && damage_->log != log_ && opens(head_)) continues = true;
  uint64_t synced = synced_below(head_);
  // Where the logs begin with damage nobody here knows what is missing; recovery does.
  bool unsynced = synced < sequence && synced <= next_sequence_.value_or(synced);
  if (!continues && unsynced && next_sequence_) damaged(at);  // if by nothing else, by the gap
  if (damage_ && !continues) {
    if (unsynced) {
      synced_below_ = std::max(synced_below_, synced);
      if (!first_sequence_) first_sequence_ = 0;
      cut_ = WalSummary::Cut{damage_->log, damage_->offset};
      return {};
    }
    return fail(Code::kCorrupt,
                fmt::format("the write-ahead log {} is damaged, and confirmed changes follow the "
                            "damage ({} at byte {}): starting would lose them; restore the data "
                            "directory from a copy",
                            damage_->text(), log_name(log_), at));
  }
  // Of what lies in front of damage nothing is known.
  if (!first_sequence_) first_sequence_ = damage_ ? 0 : sequence;
  damage_.reset();
  zeros_.reset();
  cut_.reset();
  next_sequence_ = sequence + count;
  return {};
}

}  // namespace

Expected<WalSummary> check_wal(rocksdb::Env* env, const std::string& directory,
                               uint64_t first_log) {
  auto logs = logs_in(env, directory);
  if (!logs) return std::unexpected(logs.error());
  auto check = std::make_unique<WalCheck>();  // on the stack GCC 12 warns of its empty optionals
  for (uint64_t log : *logs) {
    if (log < first_log) continue;
    if (auto good = check->file(env, directory, log); !good) return std::unexpected(good.error());
  }
  if (check->torn_at()) {
    spdlog::warn("store: the write-ahead log {} ends in what was not synced; it is dropped",
                 *check->torn_at());
  }
  WalSummary summary = check->summary();
  if (!logs->empty()) summary.oldest_log = logs->front();
  return summary;
}

Expected<> cut_wal(rocksdb::Env* env, const std::string& directory, const WalSummary::Cut& cut) {
  auto logs = logs_in(env, directory);
  if (!logs) return std::unexpected(logs.error());
  rocksdb::Status status;
  for (size_t i = logs->size(); i-- > 0 && (*logs)[i] > cut.log && status.ok();) {
    status = env->DeleteFile(directory + "/" + log_name((*logs)[i]));
  }
  std::unique_ptr<rocksdb::WritableFile> log;
  if (status.ok()) {
    status =
        env->ReopenWritableFile(directory + "/" + log_name(cut.log), &log, rocksdb::EnvOptions());
  }
  if (status.ok()) status = log->Truncate(cut.bytes);
  if (status.ok()) status = log->Close();
  if (status.ok()) return {};
  return std::unexpected(to_error(status, "cutting off what the write-ahead log did not sync"));
}

}  // namespace sluice::storage
