// A handler of records in C++, for handlers_test.py: what each does stands in its body.
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>

#include <sluice.hpp>

namespace {

std::string seed_text;

void keep_seed(const uint8_t seed[32], void*) {
  seed_text.clear();
  for (int i = 0; i < 32; i++) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", seed[i]);
    seed_text += digits;
  }
}

std::optional<std::string> handle(const sluice::Record& record, sluice::Call& call) {
  const std::string body(record.body());
  call.log(sluice::Level::kDebug, body);
  call.publish({.routing_key = "q", .body = body});
  call.set_state(body);
  if (body == "throw") throw std::runtime_error("thrown");
  if (body == "throw 7") throw 7;
  if (body == "misuse") call.publish({.routing_key = "\xff"});
  if (body == "seed") return seed_text;
  if (body == "remaining") return std::to_string(call.remaining_ms());
  if (body == "none") return std::nullopt;
  if (body == "names") {
    std::string names;
    for (const sluice::Header& header : call[0].headers()) names += header.name();
    return names;
  }
  return body;
}

}  // namespace

int main() {
  sluice_on_call(keep_seed, nullptr);
  return sluice::run_each(handle);
}
