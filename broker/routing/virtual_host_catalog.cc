// How exchanges, queues and bindings are kept in the catalog, and come back at start.
#include <unordered_set>

#include <flatbuffers/flatbuffers.h>

#include "base/check.h"
#include "broker/routing/virtual_host.h"
#include "schemas/catalog_generated.h"

namespace sluice::broker {

namespace {

using storage::CatalogKind;

std::string encoded(const amqp::Table& table) {
  std::string bytes;
  {
    amqp::Writer writer(bytes);
    amqp::write_table(writer, table);
  }
  return bytes;
}

flatbuffers::Offset<flatbuffers::Vector<uint8_t>> add_table(flatbuffers::FlatBufferBuilder& builder,
                                                            const amqp::Table& table) {
  std::string bytes = encoded(table);
  return builder.CreateVector(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

Expected<amqp::Table> decoded(const flatbuffers::Vector<uint8_t>* bytes, std::string_view of) {
  if (bytes == nullptr) return amqp::Table();
  amqp::Reader reader(amqp::Bytes(bytes->data(), bytes->size()));
  amqp::Table table = amqp::read_table(reader);
  if (!reader.ok()) {
    return fail(Code::kCorrupt, "the stored arguments of '" + std::string(of) + "' are damaged");
  }
  return table;
}

std::string finished(flatbuffers::FlatBufferBuilder& builder) {
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

// Binding names may hold any byte, so the parts carry their lengths.
std::string binding_key(const Exchange& exchange, const Binding& binding) {
  std::string key;
  {
    amqp::Writer writer(key);
    writer.short_string(exchange.settings().name);
    writer.short_string(binding.queue->name());
    writer.short_string(binding.routing_key);
    amqp::write_table(writer, binding.arguments);
  }
  return key;
}

template <typename Record>
Expected<const Record*> verified(const storage::CatalogEntry& entry) {
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(entry.value.data()),
                                 entry.value.size());
  if (!verifier.VerifyBuffer<Record>(nullptr)) {
    return fail(Code::kCorrupt, "the catalog's record '" + entry.key + "' is damaged");
  }
  return flatbuffers::GetRoot<Record>(entry.value.data());
}

}  // namespace

void VirtualHost::save(const Exchange& exchange) {
  const ExchangeSettings& settings = exchange.settings();
  if (!settings.durable) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, settings.arguments);
  auto name = builder.CreateString(settings.name);
  auto type = builder.CreateString(settings.type);
  builder.Finish(schema::CreateExchangeRecord(builder, name, type, settings.auto_delete,
                                              settings.internal, arguments));
  journal_.changes().definitions.push_back(
      {CatalogKind::kExchange, settings.name, finished(builder)});
}

void VirtualHost::save(const Queue& queue) {
  if (!queue.durable()) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, queue.settings().arguments);
  auto name = builder.CreateString(queue.name());
  builder.Finish(schema::CreateQueueRecord(builder, name, queue.id(), arguments,
                                           queue.settings().auto_delete,
                                           static_cast<uint16_t>(queue.policy().priority_max + 1)));
  journal_.changes().definitions.push_back({CatalogKind::kQueue, queue.name(), finished(builder)});
}

void VirtualHost::save(const Exchange& exchange, const Binding& binding) {
  if (!exchange.settings().durable || !binding.queue->durable()) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, binding.arguments);
  auto source = builder.CreateString(exchange.settings().name);
  auto destination = builder.CreateString(binding.queue->name());
  auto routing_key = builder.CreateString(binding.routing_key);
  builder.Finish(schema::CreateBindingRecord(builder, source, destination, routing_key, arguments));
  journal_.changes().definitions.push_back(
      {CatalogKind::kBinding, binding_key(exchange, binding), finished(builder)});
}

void VirtualHost::forget(const Exchange& exchange) {
  if (!exchange.settings().durable) return;
  journal_.changes().definitions.push_back(
      {CatalogKind::kExchange, exchange.settings().name, std::nullopt});
}

void VirtualHost::forget(const Queue& queue) {
  if (!queue.durable()) return;
  journal_.changes().definitions.push_back({CatalogKind::kQueue, queue.name(), std::nullopt});
}

void VirtualHost::forget(const Exchange& exchange, const Binding& binding) {
  if (!exchange.settings().durable || !binding.queue->durable()) return;
  journal_.changes().definitions.push_back(
      {CatalogKind::kBinding, binding_key(exchange, binding), std::nullopt});
}

Expected<> VirtualHost::recover(storage::Store& store) {
  if (auto done = recover_exchanges(store); !done) return done;
  if (auto done = recover_queues(store); !done) return done;
  return recover_bindings(store);
}

Expected<> VirtualHost::recover_exchanges(storage::Store& store) {
  auto entries = store.catalog(CatalogKind::kExchange);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto record = verified<schema::ExchangeRecord>(entry);
    if (!record) return std::unexpected(record.error());
    auto arguments = decoded((*record)->arguments(), entry.key);
    if (!arguments) return std::unexpected(arguments.error());
    ExchangeSettings settings{.name = (*record)->name()->str(),
                              .type = (*record)->type()->str(),
                              .durable = true,
                              .auto_delete = (*record)->auto_delete(),
                              .internal = (*record)->internal(),
                              .arguments = std::move(*arguments)};
    if (Router::make(settings.type) == nullptr) {
      return fail(Code::kCorrupt, "exchange '" + settings.name + "' is stored with the type '" +
                                      settings.type + "', which this version does not know");
    }
    std::string name = settings.name;
    exchanges_[name] = std::make_unique<Exchange>(std::move(settings));
  }
  return {};
}

Expected<> VirtualHost::recover_queues(storage::Store& store) {
  auto entries = store.catalog(CatalogKind::kQueue);
  if (!entries) return std::unexpected(entries.error());
  auto stored = store.queues();
  if (!stored) return std::unexpected(stored.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto record = verified<schema::QueueRecord>(entry);
    if (!record) return std::unexpected(record.error());
    auto arguments = decoded((*record)->arguments(), entry.key);
    if (!arguments) return std::unexpected(arguments.error());
    if ((*record)->id() == 0) {
      return fail(Code::kCorrupt, "queue '" + entry.key + "' is stored without an id");
    }
    size_t id_count = (*record)->id_count();
    if (id_count == 0 || id_count > 256) {
      return fail(Code::kCorrupt,
                  "queue '" + entry.key + "' is stored with " + std::to_string(id_count) + " ids");
    }
    QueueSettings settings{.name = (*record)->name()->str(),
                           .durable = true,
                           .auto_delete = (*record)->auto_delete(),
                           .arguments = std::move(*arguments)};
    settings.policy.priority_max = static_cast<uint8_t>(id_count - 1);
    last_queue_id_ = std::max(last_queue_id_, (*record)->id() + id_count - 1);
    auto queue = make_queue((*record)->id(), std::move(settings));
    if (auto done = queue->recover(store, *stored); !done) return done;
    queues_.emplace(queue->name(), queue);
  }
  drop_unknown_queues(*stored);
  return {};
}

// Queues that do not outlive a restart leave behind what did not fit RAM.
void VirtualHost::drop_unknown_queues(std::span<const storage::QueueId> stored) {
  std::unordered_set<storage::QueueId> known;
  for (const auto& [name, queue] : queues_) {
    for (size_t level = 0; level <= queue->policy().priority_max; ++level) {
      known.insert(queue->id() + level);
    }
  }
  for (storage::QueueId id : stored) {
    last_queue_id_ = std::max(last_queue_id_, id);
    if (!known.contains(id)) journal_.drop(id);
  }
}

Expected<> VirtualHost::recover_bindings(storage::Store& store) {
  auto entries = store.catalog(CatalogKind::kBinding);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto record = verified<schema::BindingRecord>(entry);
    if (!record) return std::unexpected(record.error());
    auto arguments = decoded((*record)->arguments(), (*record)->routing_key()->str());
    if (!arguments) return std::unexpected(arguments.error());
    auto exchange = exchanges_.find((*record)->source()->string_view());
    auto queue = queues_.find((*record)->destination()->string_view());
    if (exchange == exchanges_.end() || queue == queues_.end()) {
      return fail(Code::kCorrupt, "a binding is stored whose queue or exchange is not");
    }
    exchange->second->bind(
        {queue->second.get(), (*record)->routing_key()->str(), std::move(*arguments)});
  }
  return {};
}

}  // namespace sluice::broker
