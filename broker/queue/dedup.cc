#include "broker/queue/dedup.h"

#include <algorithm>

#include <openssl/evp.h>

#include "base/check.h"
#include "broker/queue/limits.h"

namespace sluice::broker {
namespace {

// Half of it: 128 bits that nobody can make two ids agree in.
storage::DedupHash hash_of(std::string_view id) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  CHECK(EVP_Digest(id.data(), id.size(), digest, &length, EVP_sha256(), nullptr) == 1);
  storage::DedupHash hash;
  CHECK(length >= hash.size());
  std::copy_n(digest, hash.size(), hash.begin());
  return hash;
}

}  // namespace

DedupWindow::DedupWindow(Journal& journal, storage::QueueId queue, DedupSettings settings)
    : journal_(journal), queue_(queue), settings_(settings) {
  CHECK(settings_.window_ms || settings_.count_max);
}

uint64_t DedupWindow::now_ms() const {
  auto wall = static_cast<uint64_t>(journal_.alarms().clock().wall_ms());
  return std::max(position_.last_at_ms, wall);
}

bool DedupWindow::is_live(const storage::DedupEntry& entry) const {
  if (entry.number < position_.watermark) return false;
  return !settings_.window_ms || now_ms() - entry.at_ms < *settings_.window_ms;
}

bool DedupWindow::contains(std::string_view id) {
  Hash hash = hash_of(id);
  if (auto found = recent_.find(hash); found != recent_.end()) return is_live(found->second);
  auto stored = journal_.find_id(queue_, hash);
  if (!stored) {
    journal_.fail_reading(stored.error());
    return false;
  }
  return *stored && is_live(**stored);
}

void DedupWindow::add(std::string_view id) {
  while (!order_.empty() && journal_.committed(order_.front().slot)) {
    auto found = recent_.find(order_.front().hash);
    if (found != recent_.end() && found->second.number == order_.front().number) {
      recent_.erase(found);
    }
    order_.pop_front();
  }
  Hash hash = hash_of(id);
  position_.last_at_ms = now_ms();
  storage::DedupEntry entry{position_.next_number++, position_.last_at_ms};
  recent_[hash] = entry;
  order_.push_back({hash, entry.number, {journal_.batch_number(), 0}});
  journal_.changes().remembers.push_back({queue_, hash, entry});
  if (settings_.window_ms) {
    auto& marks = position_.marks;
    uint64_t apart_ms = std::max<uint64_t>(*settings_.window_ms / kDedupMarksMax, 1);
    if (marks.empty() || entry.at_ms - marks.back().at_ms >= apart_ms) marks.push_back(entry);
  }
  forget_old();
  changed();
}

// All that was met before a mark is older than it.
void DedupWindow::forget_old() {
  uint64_t& watermark = position_.watermark;
  if (settings_.count_max && position_.next_number > *settings_.count_max) {
    watermark = std::max(watermark, position_.next_number - *settings_.count_max);
  }
  if (!settings_.window_ms) return;
  auto& marks = position_.marks;
  auto young = std::ranges::find_if(marks, [this](const storage::DedupEntry& mark) {
    return position_.last_at_ms - mark.at_ms < *settings_.window_ms;
  });
  if (young != marks.begin()) {
    watermark = std::max(watermark, std::prev(young)->number);
    marks.erase(marks.begin(), young);
  }
}

// The batch says once where the window stands.
void DedupWindow::changed() {
  auto& advances = journal_.changes().dedup_advances;
  if (change_.batch == journal_.batch_number()) {
    advances[change_.index].position = position_;
    return;
  }
  advances.push_back({queue_, position_});
  change_ = {journal_.batch_number(), static_cast<uint32_t>(advances.size() - 1)};
}

}  // namespace sluice::broker
