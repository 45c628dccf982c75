#pragma once

#include "broker/admin/http_server.h"
#include "broker/config.h"
#include "broker/disk_alarm.h"
#include "broker/dispatch/dispatcher.h"

// The resources of API.md. The references must outlive the server.
namespace sluice::broker::admin {

void add_overview(HttpServer& http, Shards& shards, Dispatcher& dispatcher, const Config& config,
                  const DiskAlarm& disk_alarm);
void add_topology(HttpServer& http, VirtualHost& virtual_host);
void add_functions(HttpServer& http, Dispatcher& dispatcher, uv_loop_t* loop);
void add_subscriptions(HttpServer& http, Dispatcher& dispatcher);

// The members of a JSON object, read without exceptions: the first one of another type than asked
// for, or an unknown one, is remembered and spoils the lot.
class Members {
 public:
  explicit Members(const Json& object) : object_(object) {}

  void read(const char* name, bool& to);
  void read(const char* name, std::string& to);
  void read(const char* name, uint32_t& to);
  void read(const char* name, uint64_t& to);
  void read(const char* name, std::vector<std::string>& to);
  void read(const char* name, amqp::Table& to);
  // The member if it is there and not null.
  const Json* find(const char* name);

  // After all reads: what is wrong, if anything is.
  std::optional<std::string> mistake();

 private:
  template <typename Is, typename Assign>
  void read_as(const char* name, const char* type, Is is, Assign assign);

  const Json& object_;
  std::vector<std::string> known_;
  std::string mistake_;
};

// The request's JSON object; an empty body counts as {}.
std::optional<Json> json_object(std::string_view body);

// What a handler answers when a change is durable.
Respond when_durable(VirtualHost& virtual_host, Respond respond);

}  // namespace sluice::broker::admin
