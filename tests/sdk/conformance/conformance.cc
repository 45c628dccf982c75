// The conformance program in C++; describe.md tells what it does.
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sluice.hpp>

namespace {

uint32_t crc32_of(std::string_view bytes) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; i++) {
      table[i] = i;
      for (int k = 0; k < 8; k++) table[i] = table[i] >> 1 ^ ((table[i] & 1) ? 0xedb88320u : 0);
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 255];
  return ~crc;
}

std::string blob(std::optional<std::string_view> bytes) {
  if (!bytes) return "-";
  std::array<char, 40> number;
  if (bytes->size() > 64) {
    snprintf(number.data(), number.size(), "%zu#%08x", bytes->size(), crc32_of(*bytes));
    return number.data();
  }
  std::string text = "x";
  for (char c : *bytes) {
    snprintf(number.data(), number.size(), "%02x", static_cast<uint8_t>(c));
    text += number.data();
  }
  return text;
}

std::string describe_value(const sluice::Header& header) {
  std::array<char, 17> bits;
  switch (header.kind()) {
    case sluice::Kind::kNone:
      return "none";
    case sluice::Kind::kText:
      return "text " + blob(header.text());
    case sluice::Kind::kBytes:
      return "bytes " + blob(header.bytes());
    case sluice::Kind::kInteger:
      return "integer " + std::to_string(header.integer().value());
    case sluice::Kind::kFloat:
      snprintf(bits.data(), bits.size(), "%016lx",
               std::bit_cast<unsigned long>(header.number().value()));
      return std::string("float ") + bits.data();
    case sluice::Kind::kBoolean:
      return header.boolean().value() ? "boolean 1" : "boolean 0";
    case sluice::Kind::kTime:
      return "time " + std::to_string(header.time().value());
    case sluice::Kind::kTable:
      return "table " + blob(header.bytes());
  }
  return "other " + blob(header.bytes());
}

std::string describe(const sluice::Record& record) {
  std::string text = "record " + std::to_string(record.id()) + " " +
                     std::to_string(record.published_ms()) + " " +
                     std::to_string(record.attempt()) + (record.redelivered() ? " 1\n" : " 0\n");
  text += "body " + blob(record.body()) + "\nexchange " + blob(record.exchange()) +
          "\nrouting_key " + blob(record.routing_key()) + "\ncontent_type " +
          blob(record.content_type()) + "\ncontent_encoding " + blob(record.content_encoding()) +
          "\nmessage_id " + blob(record.message_id()) + "\ncorrelation_id " +
          blob(record.correlation_id()) + "\nreply_to " + blob(record.reply_to()) + "\ntype " +
          blob(record.type()) + "\n";
  for (const sluice::Header& header : record.headers()) {
    text += "header " + blob(header.name()) + " " + describe_value(header) + "\n";
  }
  return text;
}

std::string describe(const sluice::Call& call) {
  std::string text = "call " + std::to_string(call.is_window_end()) + " " +
                     std::to_string(call.deadline_ns()) + " " + std::to_string(call.timeout_ms()) +
                     " " + std::to_string(call.size()) + "\nstate " + blob(call.state()) +
                     "\nstate_version " + std::to_string(call.state_version()) + "\nkey " +
                     blob(call.key()) + "\nwindow ";
  if (const auto window = call.window()) {
    text += std::to_string(window->start_ms) + " " + std::to_string(window->end_ms) + " " +
            std::to_string(window->number) + "\n";
  } else {
    text += "-\n";
  }
  for (const sluice::Record& record : call) text += describe(record);
  return text;
}

int64_t integer_of(const sluice::Record& record, std::string_view name) {
  const auto header = record.header(name);
  return header ? header->integer().value_or(0) : 0;
}

void publish(sluice::Call& call, const sluice::Record& record) {
  std::vector<sluice::Header> headers;
  for (const sluice::Header& header : record.headers()) headers.push_back(header);
  call.publish({
      .exchange = record.exchange(),
      .routing_key = record.routing_key(),
      .body = record.body(),
      .content_type = record.content_type().value_or(""),
      .content_encoding = record.content_encoding().value_or(""),
      .message_id = record.message_id().value_or(""),
      .correlation_id = record.correlation_id().value_or(""),
      .reply_to = record.reply_to().value_or(""),
      .type = record.type().value_or(""),
      .headers = headers,
      .delay_ms = static_cast<uint64_t>(integer_of(record, "delay")),
  });
}

void act(sluice::Call& call, uint32_t i, const sluice::Record& record, std::string_view what) {
  const std::string_view body = record.body();
  if (what == "throw") throw std::runtime_error(std::string(body));
  if (what == "fail") call.fail_record(i, body);
  if (what == "fail-call") call.fail(body);
  if (what == "result") call.result(i, body);
  if (what == "state") call.set_state(body);
  if (what == "drop") call.drop_state();
  if (what == "output") publish(call, record);
  if (what == "log") call.log(static_cast<sluice::Level>(integer_of(record, "level")), body);
  if (what == "big") {
    call.result(i, std::string(static_cast<size_t>(integer_of(record, "size")), 'x'));
  }
  if (what == "misuse") call.result(call.size(), "x");
  if (what == "print") printf("%.*s", static_cast<int>(body.size()), body.data());
}

}  // namespace

int main() {
  return sluice::run([](sluice::Call& call) {
    uint32_t i = 0;
    for (const sluice::Record& record : call) {
      const auto what = record.header("do");
      if (what && what->text()) act(call, i, record, *what->text());
      i++;
    }
    return describe(call);
  });
}
