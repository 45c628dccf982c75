#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "broker/dispatch/dispatcher.h"
#include "broker/routing/virtual_host.h"
#include "broker/session/connection.h"

// What the administration shows, as JSON (API.md). Called on the shard's thread.
namespace sluice::broker::admin {

using Json = nlohmann::ordered_json;

Json view(const VirtualHost& virtual_host, const Queue& queue);
Json view(const VirtualHost& virtual_host, const Exchange& exchange);
Json view(const VirtualHost& virtual_host, const Exchange& exchange, const Binding& binding);
Json view(const Connection& connection);
Json view(const FunctionVersion& version);
Json view(const Subscription& subscription);
Json view(const CallLogEntry& entry);
Json view(const CallResult& result, uint32_t version);
Json view(const Executor& executor);
// A message that waits in a queue; of its payload no more than the first 64 KiB. An external body
// is left to show_payload().
Json view(const Entry& entry);
void show_payload(Json& message, std::string_view body);

Json to_json(const amqp::Table& table);
// For arguments: whole numbers become 'l', texts 'S', and so on. Nothing where it is not an object
// or is over AMQP's limits: names of 255 bytes, amqp::kArgumentsMax fields, amqp::kTableDepthMax
// levels.
std::optional<amqp::Table> to_table(const Json& json);

// The text, made valid UTF-8 by replacing what is not.
std::string printable(std::string_view bytes);

std::string_view name_of(Executor::State state);

}  // namespace sluice::broker::admin
