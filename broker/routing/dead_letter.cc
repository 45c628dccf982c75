#include "broker/routing/dead_letter.h"

#include <algorithm>
#include <chrono>

#include "broker/queue/limits.h"
#include "broker/routing/virtual_host.h"

namespace sluice::broker {

namespace {

constexpr int64_t kCountMax = int64_t{1} << 53;

std::string text_of(const amqp::Table& table, std::string_view name) {
  const amqp::Field* field = table.find(name);
  return field != nullptr && field->text() != nullptr ? *field->text() : std::string();
}

amqp::Table first_death(std::string_view queue, const storage::Record& record, DeathReason reason) {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto now_s = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
  amqp::Table death;
  death.set("count", int64_t{0});
  death.set("reason", std::string(name_of(reason)));
  death.set("queue", std::string(queue));
  death.set("time", amqp::Timestamp{now_s});
  death.set("exchange", std::string(record.exchange()));
  death.set("routing-keys", amqp::Array{std::string(record.routing_key())});
  return death;
}

}  // namespace

void add_death(amqp::Properties& properties, std::string_view queue, const storage::Record& record,
               DeathReason reason) {
  if (!properties.headers) properties.headers.emplace();
  amqp::Table& headers = *properties.headers;
  amqp::Array deaths;
  if (const amqp::Field* field = headers.find("x-death"); field != nullptr && field->array()) {
    deaths = *field->array();
  }
  std::erase_if(deaths, [](const amqp::Field& field) { return !field.table(); });  // not ours
  auto same = std::ranges::find_if(deaths, [&](const amqp::Field& field) {
    return text_of(*field.table(), "queue") == queue &&
           text_of(*field.table(), "reason") == name_of(reason);
  });
  amqp::Table death;
  if (same == deaths.end()) {
    death = first_death(queue, record, reason);
  } else {
    death = *same->table();
    deaths.erase(same);
  }
  // The count may be a client's invention.
  const amqp::Field* count = death.find("count");
  int64_t before = count != nullptr ? count->integer().value_or(0) : 0;
  death.set("count", std::clamp<int64_t>(before, 0, kCountMax) + 1);
  if (properties.expiration) {
    death.set("original-expiration", *std::exchange(properties.expiration, std::nullopt));
  }
  deaths.insert(deaths.begin(), std::move(death));
  headers.set("x-death", std::move(deaths));
  std::string exchange(record.exchange());
  for (std::string_view which : {"x-first-death-", "x-last-death-"}) {
    std::string prefix(which);
    if (which.starts_with("x-first") && headers.find(prefix + "queue") != nullptr) continue;
    headers.set(prefix + "reason", std::string(name_of(reason)));
    headers.set(prefix + "queue", std::string(queue));
    headers.set(prefix + "exchange", exchange);
  }
}

bool comes_back(const amqp::Table& headers, std::string_view queue) {
  const amqp::Field* field = headers.find("x-death");
  if (field == nullptr || field->array() == nullptr) return false;
  for (const amqp::Field& entry : *field->array()) {
    const amqp::Table* death = entry.table();
    if (death == nullptr) continue;
    if (text_of(*death, "reason") == name_of(DeathReason::kRejected)) return false;
    if (text_of(*death, "queue") == queue) return true;
  }
  return false;
}

void VirtualHost::dead_letter(Death death) {
  deaths_.push_back(std::move(death));
  if (!going_through_deaths_) go_through_deaths();
}

void VirtualHost::go_through_deaths() {
  going_through_deaths_ = true;
  for (size_t count = 0; !deaths_.empty(); ++count) {
    if (count == kDeathsPerTurn) {
      journal_.when_durable([this] { go_through_deaths(); });
      return;
    }
    Death death = std::move(deaths_.front());
    deaths_.pop_front();
    ++counters_.dead[static_cast<size_t>(death.reason)];
    ++(publish_dead(death) ? counters_.dead_lettered : counters_.discarded);
    if (death.entry.sequence != 0) death.queue->settle(death.entry);
  }
  going_through_deaths_ = false;
}

// False where it is in no queue then.
bool VirtualHost::publish_dead(Death& death) {
  Queue& queue = *death.queue;
  Entry& entry = death.entry;
  const amqp::Table& arguments = queue.settings().arguments;
  const amqp::Field* exchange = arguments.find("x-dead-letter-exchange");
  if (exchange == nullptr || queue.removed() || !queue.reload(entry)) return false;
  const storage::Record& record = *entry.record;
  auto properties = amqp::Properties::of_stored(record.properties());
  add_death(properties, queue.name(), record, death.reason);
  std::string encoded = properties.encode();
  const amqp::Field* key = arguments.find("x-dead-letter-routing-key");
  Publication publication{
      .exchange = *exchange->text(),
      .routing_key = key != nullptr ? std::string_view(*key->text()) : record.routing_key(),
      .properties = amqp::as_bytes(encoded),
      .body = record.body(),
      .external = record.external(),
      .group = record.group(),
      .priority = entry.priority};
  if (death.reason != DeathReason::kRejected) publication.died = &*properties.headers;
  auto sent = publish_with_changes(publication);
  return sent && sent->taken_count() > 0;
}

}  // namespace sluice::broker
