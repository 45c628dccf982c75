#include "tools/cli/output.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>
#include <unistd.h>

#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

constexpr int64_t kFirstDrawMs = 500;
constexpr int64_t kDrawMs = 200;

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

std::string dump(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace) + '\n';
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// Member "a/b" of `object`; null where there is none.
Json member(const Json& object, std::string_view field) {
  const Json* found = &object;
  while (!field.empty()) {
    const size_t slash = field.find('/');
    if (!found->is_object()) return nullptr;
    const auto next = found->find(std::string(field.substr(0, slash)));
    if (next == found->end()) return nullptr;
    found = &*next;
    field = slash == std::string_view::npos ? "" : field.substr(slash + 1);
  }
  return *found;
}

std::string object_cell(const Json& object) {
  if (object.size() == 2 && object.contains("exchange") && object.contains("routing_key")) {
    return cell("", object["exchange"]) + "/" + cell("", object["routing_key"]);
  }
  std::string text;
  for (const auto& [key, value] : object.items()) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", printable(key), cell(key, value));
  }
  return text;
}

std::string number_cell(std::string_view field, const Json& number) {
  if (number.is_number_unsigned() || (number.is_number_integer() && number.get<int64_t>() >= 0)) {
    const auto value = number.get<uint64_t>();
    if (field.ends_with("_at_ms") || field == "time_ms") {
      return human_time_ms(static_cast<int64_t>(value));
    }
    if (field.ends_with("_bytes")) return human_bytes(value);
    if (field.ends_with("_ms")) return human_duration_ms(value);
    if (field.ends_with("_us")) return fmt::format("{} us", value);
  }
  return number.dump();
}

// A field's name without its unit and with spaces: memory_bytes is "memory".
std::string label(std::string_view field) {
  for (const std::string_view unit : {"_bytes", "_ms", "_us"}) {
    if (field.ends_with(unit)) {
      field.remove_suffix(unit.size());
      break;
    }
  }
  std::string text(field);
  for (char& c : text) {
    if (c == '_') c = ' ';
  }
  return text;
}

}  // namespace

std::string cell(std::string_view field, const Json& value) {
  switch (value.type()) {
    case Json::value_t::string:
      return printable(value.get_ref<const std::string&>());
    case Json::value_t::boolean:
      return value.get<bool>() ? "yes" : "no";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
    case Json::value_t::number_float:
      return number_cell(field, value);
    case Json::value_t::object:
      return object_cell(value);
    case Json::value_t::array: {
      std::string text;
      for (const Json& item : value) text += (text.empty() ? "" : " ") + cell(field, item);
      return text;
    }
    default:
      return "-";
  }
}

void print_list(const Context& context, const Json& list, const std::vector<Column>& columns,
                std::string_view none) {
  if (context.json()) return print(dump(list, 2));
  if (!list.is_array() || list.empty()) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(none.size()), none.data());
    return;
  }
  std::vector<std::string> header;
  for (const Column& column : columns) header.push_back(column.title);
  std::vector<std::vector<std::string>> rows;
  for (const Json& item : list) {
    std::vector<std::string>& row = rows.emplace_back();
    for (const Column& column : columns)
      row.push_back(cell(column.field, member(item, column.field)));
  }
  print(align(header, rows));
}

void print_object(const Context& context, const Json& object) {
  if (context.json()) return print(dump(object, 2));
  std::vector<std::vector<std::string>> rows;
  for (const auto& [key, value] : object.items()) {
    const std::string text = cell(key, value);
    if (!text.empty()) rows.push_back({label(key), text});
  }
  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row[0].size());
  for (const auto& row : rows) print(fmt::format("{:<{}}  {}\n", row[0], width, row[1]));
}

void print_done(const Context& context, std::string_view sentence, const Json& object) {
  if (context.json()) return print(dump(object, 2));
  print(std::string(sentence) + '\n');
}

void print_json_line(const Json& value) { print(dump(value, -1)); }

Expected<> write_stdout(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size()) return {};
  return fail(Code::kIo, fmt::format("cannot write to stdout: {}", std::strerror(errno)));
}

Expected<> flush_stdout() {
  if (std::fflush(stdout) == 0) return {};
  return fail(Code::kIo, fmt::format("cannot write to stdout: {}", std::strerror(errno)));
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1), next_ms_(now_ms() + kFirstDrawMs) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::update(std::string_view what, uint64_t count) {
  if (!terminal_) return;
  const int64_t now = now_ms();
  if (now < next_ms_) return;
  next_ms_ = now + kDrawMs;
  say(fmt::format("{} {}", count, what));
}

void Progress::say(std::string_view line) {
  if (!terminal_) return;
  drawn_ = true;
  const std::string text = fmt::format("\r\033[K{}", printable(line));
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace sluice::cli
