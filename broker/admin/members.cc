#include <algorithm>

#include "broker/admin/api.h"

namespace sluice::broker::admin {

template <typename Is, typename Assign>
void Members::read_as(const char* name, const char* type, Is is, Assign assign) {
  const Json* member = find(name);
  if (member == nullptr) return;
  if (!is(*member)) {
    if (mistake_.empty()) mistake_ = std::string("'") + name + "' must be " + type;
    return;
  }
  assign(*member);
}

const Json* Members::find(const char* name) {
  known_.emplace_back(name);
  auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Members::read(const char* name, bool& to) {
  read_as(
      name, "true or false", [](const Json& m) { return m.is_boolean(); },
      [&](const Json& m) { to = m.get<bool>(); });
}

void Members::read(const char* name, std::string& to) {
  read_as(
      name, "a string", [](const Json& m) { return m.is_string(); },
      [&](const Json& m) { to = m.get<std::string>(); });
}

void Members::read(const char* name, uint32_t& to) {
  read_as(
      name, "a whole number below 2^32",
      [](const Json& m) { return m.is_number_unsigned() && m.get<uint64_t>() <= UINT32_MAX; },
      [&](const Json& m) { to = m.get<uint32_t>(); });
}

void Members::read(const char* name, uint64_t& to) {
  read_as(
      name, "a whole number", [](const Json& m) { return m.is_number_unsigned(); },
      [&](const Json& m) { to = m.get<uint64_t>(); });
}

void Members::read(const char* name, std::vector<std::string>& to) {
  auto strings = [](const Json& m) {
    return m.is_array() &&
           std::ranges::all_of(m, [](const Json& item) { return item.is_string(); });
  };
  read_as(name, "an array of strings", strings,
          [&](const Json& m) { to = m.get<std::vector<std::string>>(); });
}

void Members::read(const char* name, amqp::Table& to) {
  read_as(
      name, "an object with few fields and short names",
      [](const Json& m) { return to_table(m).has_value(); },
      [&](const Json& m) { to = *to_table(m); });
}

std::optional<std::string> Members::mistake() {
  for (const auto& [name, value] : object_.items()) {
    if (std::ranges::find(known_, name) == known_.end() && mistake_.empty()) {
      mistake_ = "'" + name + "' is not known here";
    }
  }
  return mistake_.empty() ? std::nullopt : std::optional(mistake_);
}

std::optional<Json> json_object(std::string_view body) {
  if (body.empty()) return Json::object();
  Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  return json;
}

Respond when_durable(VirtualHost& virtual_host, Respond respond) {
  return [&virtual_host, respond = std::move(respond)](Response response) {
    virtual_host.when_all_durable([respond, response = std::move(response)] { respond(response); });
  };
}

}  // namespace sluice::broker::admin
