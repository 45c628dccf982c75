#include "broker/threads/courier.h"

namespace sluice::broker {

namespace {

// Mail that may wait does so until there are so many.
constexpr size_t kMailMax = 64;

}  // namespace

unsigned Mailroom::add(std::function<void()> wake) {
  standstill_.join(wake);
  boxes_.push_back(std::make_unique<Box>());
  boxes_.back()->wake = std::move(wake);
  return shard_count() - 1;
}

void Mailroom::post(unsigned shard, Mail mail) {
  Box& box = *boxes_[shard];
  {
    std::lock_guard lock(box.mutex);
    box.list.push_back(std::move(mail));
  }
  box.wake();
}

void Mailroom::post(unsigned shard, std::vector<Mail>& mails) {
  Box& box = *boxes_[shard];
  {
    std::lock_guard lock(box.mutex);
    if (box.list.empty()) {
      box.list.swap(mails);
    } else {
      for (Mail& mail : mails) box.list.push_back(std::move(mail));
    }
  }
  mails.clear();
  box.wake();
}

void Mailroom::work(Box& box) {
  {
    std::lock_guard lock(box.mutex);
    for (Mail& mail : box.list) box.taken.push_back(std::move(mail));
    box.list.clear();
  }
  // Some may stand still in the middle, and another shard go on with the rest.
  while (!box.taken.empty()) {
    Mail mail = std::move(box.taken.front());
    box.taken.pop_front();
    mail();
  }
}

void Mailroom::work(unsigned shard) {
  work(*boxes_[shard]);
  standstill_.stand();
}

void Mailroom::work_for_others(unsigned shard) {
  for (unsigned other = 0; other < boxes_.size(); ++other) {
    if (other != shard) work(*boxes_[other]);
  }
}

Courier::Courier(Mailroom& mailroom, unsigned here)
    : mailroom_(mailroom), here_(here), out_(mailroom.shard_count()) {}

Courier::Change::Change(Courier& courier)
    : guard_((courier.flush_all(), courier.mailroom_.standstill())) {
  if (guard_.outermost()) courier.mailroom_.work_for_others(courier.here_);
}

bool Courier::flush() {
  bool left = false, stays = false;
  for (unsigned shard = 0; shard < out_.size(); ++shard) {
    Out& out = out_[shard];
    if (out.mail.empty()) continue;
    if (!out.due && out.mail.size() < kMailMax) {
      stays = true;
      continue;
    }
    out.due = false;
    mailroom_.post(shard, out.mail);
    left = true;
  }
  if (left) ++flush_number_;
  return stays;
}

void Courier::flush_all() {
  for (Out& out : out_) out.due = true;
  flush();
}

}  // namespace sluice::broker
