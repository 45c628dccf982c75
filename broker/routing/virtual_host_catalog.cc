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

void VirtualHost::define(storage::Batch::Definition definition) {
  names_.definitions.push_back(std::move(definition));
  journal_.follow();
}

void VirtualHost::save(const Exchange& exchange) {
  const ExchangeSettings& settings = exchange.settings();
  if (!settings.durable) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, settings.arguments);
  auto name = builder.CreateString(settings.name);
  auto type = builder.CreateString(settings.type);
  builder.Finish(schema::CreateExchangeRecord(builder, name, type, settings.auto_delete,
                                              settings.internal, arguments));
  define({CatalogKind::kExchange, settings.name, finished(builder)});
}

void VirtualHost::save(const Queue& queue) {
  if (!queue.durable()) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, queue.settings().arguments);
  auto name = builder.CreateString(queue.name());
  builder.Finish(schema::CreateQueueRecord(builder, name, queue.id(), arguments,
                                           queue.settings().auto_delete,
                                           static_cast<uint16_t>(queue.policy().priority_max + 1)));
  define({CatalogKind::kQueue, queue.name(), finished(builder)});
}

void VirtualHost::save(const Exchange& exchange, const Binding& binding) {
  if (!exchange.settings().durable || !binding.queue->durable()) return;
  flatbuffers::FlatBufferBuilder builder;
  auto arguments = add_table(builder, binding.arguments);
  auto source = builder.CreateString(exchange.settings().name);
  auto destination = builder.CreateString(binding.queue->name());
  auto routing_key = builder.CreateString(binding.routing_key);
  builder.Finish(schema::CreateBindingRecord(builder, source, destination, routing_key, arguments));
  define({CatalogKind::kBinding, binding_key(exchange, binding), finished(builder)});
}

void VirtualHost::forget(const Exchange& exchange) {
  if (!exchange.settings().durable) return;
  define({CatalogKind::kExchange, exchange.settings().name, std::nullopt});
}

void VirtualHost::forget(const Queue& queue) {
  if (!queue.durable()) return;
  define({CatalogKind::kQueue, queue.name(), std::nullopt});
}

void VirtualHost::forget(const Exchange& exchange, const Binding& binding) {
  if (!exchange.settings().durable || !binding.queue->durable()) return;
  define({CatalogKind::kBinding, binding_key(exchange, binding), std::nullopt});
}

// Straight to the store: commits of all shards come after it.
void VirtualHost::save_definitions() {
  if (names_.definitions.empty()) return;
  auto batch = std::make_unique<storage::Batch>();
  batch->definitions = std::exchange(names_.definitions, {});
  // Where it fails, so does all that follows.
  store_.commit(std::move(batch), [](std::unique_ptr<storage::Batch>, const Expected<>&) {});
  journal_.follow();
}

Expected<> VirtualHost::recover() {
  if (auto done = recover_exchanges(); !done) return done;
  if (auto done = recover_queues(); !done) return done;
  return recover_bindings();
}

Expected<> VirtualHost::recover_exchanges() {
  auto entries = store_.catalog(CatalogKind::kExchange);
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
    names_.exchanges[name] = std::make_unique<Exchange>(std::move(settings));
  }
  return {};
}

Expected<> VirtualHost::recover_queues() {
  auto entries = store_.catalog(CatalogKind::kQueue);
  if (!entries) return std::unexpected(entries.error());
  auto stored = store_.queues();
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
    names_.last_queue_id = std::max(names_.last_queue_id, (*record)->id() + id_count - 1);
    auto queue = make_queue((*record)->id(), std::move(settings));
    if (auto done = queue->recover(store_, *stored); !done) return done;
    names_.queues.emplace(queue->name(), queue);
  }
  drop_unknown_queues(*stored);
  return {};
}

// Queues that do not outlive a restart leave behind what did not fit RAM.
void VirtualHost::drop_unknown_queues(std::span<const storage::QueueId> stored) {
  std::unordered_set<storage::QueueId> known;
  for (const auto& [name, queue] : names_.queues) {
    for (size_t level = 0; level <= queue->policy().priority_max; ++level) {
      known.insert(queue->id() + level);
    }
  }
  for (storage::QueueId id : stored) {
    names_.last_queue_id = std::max(names_.last_queue_id, id);
    if (!known.contains(id)) journal_.drop(id);
  }
}

Expected<> VirtualHost::recover_bindings() {
  auto entries = store_.catalog(CatalogKind::kBinding);
  if (!entries) return std::unexpected(entries.error());
  for (const storage::CatalogEntry& entry : *entries) {
    auto record = verified<schema::BindingRecord>(entry);
    if (!record) return std::unexpected(record.error());
    auto arguments = decoded((*record)->arguments(), (*record)->routing_key()->str());
    if (!arguments) return std::unexpected(arguments.error());
    auto exchange = names_.exchanges.find((*record)->source()->string_view());
    auto queue = names_.queues.find((*record)->destination()->string_view());
    if (exchange == names_.exchanges.end() || queue == names_.queues.end()) {
      return fail(Code::kCorrupt, "a binding is stored whose queue or exchange is not");
    }
    exchange->second->bind(
        {queue->second.get(), (*record)->routing_key()->str(), std::move(*arguments)});
  }
  return {};
}

}  // namespace sluice::broker
