#include "broker/threads/courier.h"

namespace sluice::broker {

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
    : guard_((courier.flush(), courier.mailroom_.standstill())) {
  if (guard_.outermost()) courier.mailroom_.work_for_others(courier.here_);
}

void Courier::flush() {
  bool sent = false;
  for (unsigned shard = 0; shard < out_.size(); ++shard) {
    if (out_[shard].empty()) continue;
    mailroom_.post(shard, out_[shard]);
    sent = true;
  }
  if (sent) ++flush_number_;
}

}  // namespace sluice::broker
