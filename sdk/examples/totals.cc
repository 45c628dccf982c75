// Running totals: each message is an amount in cents, "1250" or "-300", and the state is the
// balance of its key. A batch moves the balance by all of it; an amount that is not a number fails
// alone. When the balance falls below zero, an alert goes out, once. At the end of a window the
// balance is the result. Shows batches, state, outputs and windows, in C++.
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sluice.hpp>

namespace {

std::optional<int64_t> number_of(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

void alert(sluice::Call& call, int64_t balance) {
  const std::string body = std::to_string(balance);
  const sluice::Header headers[] = {
      sluice::Header::text("account", call.key().value_or("")),
      sluice::Header::integer("balance", balance),
  };
  call.publish({.routing_key = "alerts", .body = body, .headers = headers});
  call.log(sluice::Level::kWarning, "the balance fell to " + body);
}

void handle(sluice::Call& call) {
  int64_t balance = number_of(call.state().value_or("0")).value_or(0);
  for (uint32_t i = 0; i < call.size(); i++) {
    const auto amount = number_of(call[i].body());
    int64_t moved = 0;
    if (!amount || __builtin_add_overflow(balance, *amount, &moved)) {
      call.fail_record(i, "it is not an amount in cents");
      continue;
    }
    if (balance >= 0 && moved < 0) alert(call, moved);
    balance = moved;
  }
  const std::string text = std::to_string(balance);
  if (call.is_window_end()) {
    call.result(text);
  } else {
    call.set_state(text);
  }
}

}  // namespace

int main() { return sluice::run(handle); }
