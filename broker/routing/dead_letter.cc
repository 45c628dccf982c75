#include "broker/routing/dead_letter.h"

#include <algorithm>
#include <chrono>

#include "broker/routing/virtual_host.h"

namespace sluice::broker {

namespace {

constexpr int64_t kCountMax = int64_t{1} << 53;

std::string text_of(const amqp::Table& table, std::string_view name) {
  const amqp::Field* field = table.find(name);
  return field != nullptr && field->text() != nullptr ? *field->text() : std::string();
}

}  // namespace

void add_death(amqp::Table& headers, const Queue& queue, const Entry& entry,
               std::string_view reason) {
  std::string exchange(entry.record->exchange());
  amqp::Array deaths;
  if (const amqp::Field* field = headers.find("x-death"); field != nullptr && field->array()) {
    deaths = *field->array();
  }
  int64_t count = 1;
  std::erase_if(deaths, [&](const amqp::Field& field) {
    const amqp::Table* death = field.table();
    if (death == nullptr) return true;  // not one of ours
    if (text_of(*death, "queue") != queue.name() || text_of(*death, "reason") != reason) {
      return false;
    }
    const amqp::Field* before = death->find("count");
    // The count may be a client's invention.
    count = before != nullptr ? std::clamp<int64_t>(before->integer().value_or(0), 0, kCountMax) + 1
                              : 1;
    return true;
  });
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto now_s = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
  amqp::Table death;
  death.set("count", count);
  death.set("reason", std::string(reason));
  death.set("queue", queue.name());
  death.set("time", amqp::Timestamp{now_s});
  death.set("exchange", exchange);
  death.set("routing-keys", amqp::Array{std::string(entry.record->routing_key())});
  deaths.insert(deaths.begin(), std::move(death));
  headers.set("x-death", std::move(deaths));
  if (headers.find("x-first-death-queue") == nullptr) {
    headers.set("x-first-death-reason", std::string(reason));
    headers.set("x-first-death-queue", queue.name());
    headers.set("x-first-death-exchange", exchange);
  }
  headers.set("x-last-death-reason", std::string(reason));
  headers.set("x-last-death-queue", queue.name());
  headers.set("x-last-death-exchange", exchange);
}

void VirtualHost::reject(Queue& queue, Entry entry) {
  const amqp::Table& arguments = queue.settings().arguments;
  const amqp::Field* exchange = arguments.find("x-dead-letter-exchange");
  bool published = false;
  if (exchange != nullptr && !queue.removed() && queue.reload(entry)) {
    auto properties = amqp::Properties::of_stored(entry.record->properties());
    if (!properties.headers) properties.headers.emplace();
    add_death(*properties.headers, queue, entry, "rejected");
    std::string encoded = properties.encode();
    const amqp::Field* key = arguments.find("x-dead-letter-routing-key");
    std::string_view routing_key =
        key != nullptr ? std::string_view(*key->text()) : entry.record->routing_key();
    auto sent = publish_with_changes({*exchange->text(), routing_key, amqp::as_bytes(encoded),
                                      entry.record->body(), entry.record->external()});
    published = sent && sent->queue_count > 0;
  }
  if (published) {
    ++counters_.dead_lettered;
  } else {
    ++counters_.discarded;
  }
  queue.settle(entry);
}

}  // namespace sluice::broker
