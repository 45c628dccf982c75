#include <bit>
#include <cstring>

#include "base/check.h"
#include "broker/amqp/limits.h"
#include "broker/dispatch/limits.h"
#include "broker/dispatch/protocol.h"
#include "broker/dispatch/protocol_format.h"

namespace sluice::broker::protocol {

namespace {

using amqp::Bytes;
using namespace dispatch;

std::unexpected<Error> broken(std::string rule) { return fail(Code::kInvalid, std::move(rule)); }

// Little-endian integers and items out of bytes that a program wrote. Past the end it fails, for
// good.
class Cursor {
 public:
  explicit Cursor(Bytes bytes) : left_(bytes) {}

  size_t left() const { return left_.size(); }
  Bytes rest() { return take(left_.size()); }

  template <typename T>
  std::optional<T> integer() {
    if (left_.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, left_.data(), sizeof value);
    left_ = left_.subspan(sizeof value);
    return value;
  }

  // Only as much as is left.
  Bytes take(size_t count) {
    Bytes taken = left_.first(count);
    left_ = left_.subspan(count);
    return taken;
  }

  struct Item {
    uint8_t tag;
    Bytes content;
  };
  std::optional<Item> item() {
    auto tag = integer<uint8_t>();
    auto length = integer<uint32_t>();
    if (!tag || !length || *length > left()) return std::nullopt;
    return Item{*tag, take(*length)};
  }

 private:
  Bytes left_;
};

// A header of an output: its value as AMQP has it.
struct Header {
  std::string_view name;
  amqp::Field value;
};

// A table or a list, put into a table of its own so that AMQP's reader takes it.
std::optional<amqp::Field> nested(Bytes value, size_t fields_max) {
  if (value.size() < 5 || (value[0] != 'F' && value[0] != 'A')) return std::nullopt;
  std::string table;
  {
    amqp::Writer writer(table);
    writer.u32(static_cast<uint32_t>(1 + value.size()));
    writer.short_string("");
    writer.raw(value);
  }
  amqp::Reader reader(amqp::as_bytes(table));
  amqp::Table read = amqp::read_table(reader, fields_max);
  if (!reader.ok() || reader.left() != 0 || read.fields.size() != 1) return std::nullopt;
  return std::move(read.fields.front().second);
}

std::optional<Header> read_header(Bytes content) {
  Cursor cursor(content);
  auto kind = cursor.integer<uint8_t>();
  auto length = cursor.integer<uint16_t>();
  if (!kind || !length || *length > kShortTextMaxBytes || *length > cursor.left()) return {};
  Header header{amqp::as_text(cursor.take(*length)), {}};
  if (!is_utf8(header.name)) return {};
  switch (*kind) {
    case kNone:
      return header;
    case kText: {
      std::string_view text = amqp::as_text(cursor.rest());
      if (!is_utf8(text)) return {};
      header.value = std::string(text);
      return header;
    }
    case kBytes:
      header.value = amqp::ByteArray{std::string(amqp::as_text(cursor.rest()))};
      return header;
    case kInteger:
    case kTime: {
      auto value = cursor.integer<int64_t>();
      if (!value) return {};
      if (*kind == kInteger) {
        header.value = *value;
      } else {
        header.value = amqp::Timestamp{static_cast<uint64_t>(*value)};
      }
      return header;
    }
    case kFloat: {
      auto value = cursor.integer<uint64_t>();
      if (!value) return {};
      header.value = std::bit_cast<double>(*value);
      return header;
    }
    case kTruth: {
      auto value = cursor.integer<uint8_t>();
      if (!value) return {};
      header.value = *value != 0;
      return header;
    }
    case kNested: {
      auto value = nested(cursor.rest(), amqp::kTableFieldsMax);
      if (!value) return {};
      header.value = std::move(*value);
      return header;
    }
    default:
      return {};
  }
}

const char* name_of_text(uint8_t tag) {
  static constexpr const char* kNames[] = {"exchange",         "routing key", "content type",
                                           "content encoding", "message id",  "correlation id",
                                           "reply-to",         "type"};
  return kNames[tag - kExchange];
}

std::optional<std::string>* property_of(amqp::Properties& properties, uint8_t tag) {
  switch (tag) {
    case kContentType:
      return &properties.content_type;
    case kContentEncoding:
      return &properties.content_encoding;
    case kMessageId:
      return &properties.message_id;
    case kCorrelationId:
      return &properties.correlation_id;
    case kReplyTo:
      return &properties.reply_to;
    default:
      return &properties.type;
  }
}

// Reads the items of an output; into nothing, where they are only to be checked. `items_left`
// counts down what the answer may have.
Expected<> parse_output(Bytes bytes, size_t& items_left, OutputMessage* to) {
  Cursor cursor(bytes);
  size_t headers = 0;
  while (cursor.left() > 0) {
    auto item = cursor.item();
    if (!item) return broken("an item of an output is longer than the output");
    if (items_left-- == 0) {
      return broken("more than " + std::to_string(kAnswerItemsMax) + " items");
    }
    switch (item->tag) {
      case kBody:
        if (item->content.size() > amqp::kBodyMaxBytes) {
          return broken("an output's body has more than " + std::to_string(amqp::kBodyMaxBytes) +
                        " bytes");
        }
        if (to != nullptr) to->body = item->content;
        break;
      case kExchange:
      case kRoutingKey:
      case kContentType:
      case kContentEncoding:
      case kMessageId:
      case kCorrelationId:
      case kReplyTo:
      case kType: {
        std::string_view text = amqp::as_text(item->content);
        if (text.size() > kShortTextMaxBytes || !is_utf8(text)) {
          return broken(std::string("an output's ") + name_of_text(item->tag) +
                        " is not UTF-8 of at most 255 bytes");
        }
        if (to == nullptr) break;
        if (item->tag == kExchange) {
          to->exchange = text;
        } else if (item->tag == kRoutingKey) {
          to->routing_key = text;
        } else {
          *property_of(to->properties, item->tag) = std::string(text);
        }
        break;
      }
      case kHeader: {
        auto header = read_header(item->content);
        if (!header) return broken("a header of an output is malformed");
        if (++headers > amqp::kTableFieldsMax) {
          return broken("an output has more than " + std::to_string(amqp::kTableFieldsMax) +
                        " headers");
        }
        if (to == nullptr) break;
        if (!to->properties.headers) to->properties.headers.emplace();
        to->properties.headers->fields.emplace_back(std::string(header->name),
                                                    std::move(header->value));
        break;
      }
      case kDelayMs: {
        auto delay = Cursor(item->content).integer<uint64_t>();
        if (!delay || *delay > kDelayMaxMs) {
          return broken("an output's delay is not a number of ms up to " +
                        std::to_string(kDelayMaxMs));
        }
        if (to != nullptr) to->delay_ms = *delay;
        break;
      }
      default:
        break;
    }
  }
  return {};
}

class AnswerDecoder {
 public:
  explicit AnswerDecoder(uint32_t record_count) : record_count_(record_count) {}

  Expected<> add(const Cursor::Item& item) {
    if (items_left_-- == 0) {
      return broken("more than " + std::to_string(kAnswerItemsMax) + " items");
    }
    Cursor cursor(item.content);
    switch (item.tag) {
      case kFailure:
        if (answer_.failure) return broken("it has two failures");
        answer_.failure = amqp::as_text(item.content);
        return check_text(*answer_.failure, "a failure");
      case kFailed: {
        auto record = cursor.integer<uint32_t>();
        if (!record) return broken("a failed record has no number");
        if (*record >= record_count_) return no_record(*record, "failed");
        std::string_view message = amqp::as_text(cursor.rest());
        answer_.failed.push_back({*record, message});
        return check_text(message, "why a record failed");
      }
      case kNewState:
        if (answer_.state) return broken("it has two states");
        answer_.state = item.content;
        return {};
      case kResult: {
        auto record = cursor.integer<uint32_t>();
        if (!record) return broken("a result has no record's number");
        if (*record != kWholeCall && *record >= record_count_) return no_record(*record, "result");
        answer_.results.push_back(
            {*record == kWholeCall ? std::nullopt : std::optional(*record), cursor.rest()});
        return {};
      }
      case kOutput:
        answer_.outputs.push_back({item.content});
        return parse_output(item.content, items_left_, nullptr);
      case kLog: {
        auto level = cursor.integer<uint8_t>();
        if (!level || *level >= std::size(Answer::kLevelNames)) {
          return broken("a log line's level is not 0 to 3");
        }
        std::string_view text = amqp::as_text(cursor.rest());
        answer_.logs.push_back({*level, text});
        return check_text(text, "a log line");
      }
      default:
        return {};
    }
  }

  Answer take() { return std::move(answer_); }

 private:
  static Expected<> check_text(std::string_view text, const char* what) {
    if (!is_utf8(text)) return broken(std::string(what) + " is not UTF-8");
    return {};
  }
  std::unexpected<Error> no_record(uint32_t record, const char* what) const {
    return broken(std::string(what) + " names record " + std::to_string(record) +
                  ", the call had " + std::to_string(record_count_));
  }

  const uint32_t record_count_;
  size_t items_left_ = kAnswerItemsMax;
  Answer answer_;
};

}  // namespace

bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const uint8_t*>(text.data());
  const auto* end = at + text.size();
  while (at < end) {
    uint64_t word;
    if (end - at >= 8 && (std::memcpy(&word, at, 8), (word & 0x8080808080808080) == 0)) {
      at += 8;
      continue;
    }
    uint8_t first = *at++;
    if (first < 0x80) continue;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - at < more) return false;
    // The second byte rules out what has a shorter form, surrogates, and what is above U+10FFFF.
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (*at < low || *at > high) return false;
    for (int i = 1; i < more; ++i) {
      if ((at[i] & 0xc0) != 0x80) return false;
    }
    at += more;
  }
  return true;
}

std::string_view cut_text(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

Expected<Answer> decode(Bytes frame, uint32_t record_count) {
  Cursor cursor(frame);
  auto length = cursor.integer<uint32_t>();
  if (!length) return broken("it ended without an answer");
  if (*length != cursor.left()) {
    return broken("the answer says that it has " + std::to_string(*length) + " bytes, it has " +
                  std::to_string(cursor.left()));
  }
  auto version = cursor.integer<uint16_t>();
  auto flags = cursor.integer<uint16_t>();
  if (!version || !flags) return broken("the answer has no header");
  if (*version != kVersion) {
    return broken("the answer has version " + std::to_string(*version) + ", known is " +
                  std::to_string(kVersion));
  }
  AnswerDecoder decoder(record_count);
  while (cursor.left() > 0) {
    auto item = cursor.item();
    if (!item) return broken("an item of the answer is longer than the answer");
    if (auto added = decoder.add(*item); !added) return std::unexpected(added.error());
  }
  Answer answer = decoder.take();
  answer.drop_state = (*flags & kDropState) != 0;
  return answer;
}

OutputMessage read_output(const Answer::Output& output) {
  OutputMessage message;
  size_t items_left = kAnswerItemsMax;
  CHECK(parse_output(output.items, items_left, &message));
  return message;
}

OutputTarget read_target(const Answer::Output& output) {
  OutputTarget target;
  Cursor cursor(output.items);
  while (auto item = cursor.item()) {
    if (item->tag == kExchange) target.exchange = amqp::as_text(item->content);
    if (item->tag == kRoutingKey) target.routing_key = amqp::as_text(item->content);
  }
  return target;
}

std::vector<const std::string_view*> Answer::failures_by_record(uint32_t record_count) const {
  std::vector<const std::string_view*> by_record;
  if (failed.empty()) return by_record;
  by_record.resize(record_count);
  for (const Failed& one : failed) {
    if (by_record[one.record] == nullptr) by_record[one.record] = &one.message;
  }
  return by_record;
}

}  // namespace sluice::broker::protocol
