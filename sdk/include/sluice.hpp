// The Sluice SDK for C++20, on top of sluice.h, which tells what holds for both.
//
//     int main() {
//       return sluice::run([](sluice::Call& call) { return word_count(call[0].body()); });
//     }
//
// A handler gives nothing, or something that a std::string_view can be made of, which is the
// result, or a std::optional of that. What it throws fails the call, or in run_each its record,
// with what(). Views live until the next call; what is passed in is copied at once.
#ifndef SLUICE_HPP
#define SLUICE_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <sluice.h>

namespace sluice {

// An answer that can not be built as asked: a record that there is not, text that is not UTF-8.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline std::string_view view(sluice_bytes bytes) {
  return bytes.data == nullptr ? std::string_view() : std::string_view(bytes.data, bytes.size);
}
inline sluice_bytes bytes(std::string_view text) { return {text.data(), text.size()}; }
// Nothing where a message does not have the property; that is not the same as an empty one.
inline std::optional<std::string_view> optional_view(sluice_bytes bytes) {
  if (bytes.data == nullptr) return std::nullopt;
  return std::string_view(bytes.data, bytes.size);
}

enum class Kind {
  kNone = SLUICE_NONE,
  kText = SLUICE_TEXT,
  kBytes = SLUICE_BYTES,
  kInteger = SLUICE_INTEGER,
  kFloat = SLUICE_FLOAT,
  kBoolean = SLUICE_BOOLEAN,
  kTime = SLUICE_TIME,
  kTable = SLUICE_TABLE,
};

// A header of a record or of an output: a name and a value, both borrowed.
class Header {
 public:
  Header() = default;
  explicit Header(const sluice_header& header) : header_(header) {}

  // For outputs. A constructor for each kind would take a pointer for a truth value.
  static Header none(std::string_view name) { return Header(name, SLUICE_NONE); }
  static Header text(std::string_view name, std::string_view value) {
    return Header(name, SLUICE_TEXT, value);
  }
  static Header bytes(std::string_view name, std::string_view value) {
    return Header(name, SLUICE_BYTES, value);
  }
  static Header integer(std::string_view name, int64_t value) {
    return Header(name, SLUICE_INTEGER, {}, value);
  }
  static Header number(std::string_view name, double value) {
    Header header(name, SLUICE_FLOAT);
    header.header_.number = value;
    return header;
  }
  static Header boolean(std::string_view name, bool value) {
    return Header(name, SLUICE_BOOLEAN, {}, value ? 1 : 0);
  }
  static Header time(std::string_view name, int64_t seconds) {
    return Header(name, SLUICE_TIME, {}, seconds);
  }
  static Header table(std::string_view name, std::string_view encoded) {
    return Header(name, SLUICE_TABLE, encoded);
  }

  std::string_view name() const { return view(header_.name); }
  Kind kind() const { return static_cast<Kind>(header_.kind); }
  // The value as it is on the wire; of a text the text.
  std::string_view bytes() const { return view(header_.bytes); }
  // These give nothing where the header is of another kind.
  std::optional<std::string_view> text() const {
    if (kind() != Kind::kText) return std::nullopt;
    return bytes();
  }
  std::optional<int64_t> integer() const {
    if (kind() != Kind::kInteger) return std::nullopt;
    return header_.integer;
  }
  std::optional<double> number() const {
    if (kind() == Kind::kInteger) return static_cast<double>(header_.integer);
    if (kind() != Kind::kFloat) return std::nullopt;
    return header_.number;
  }
  std::optional<bool> boolean() const {
    if (kind() != Kind::kBoolean) return std::nullopt;
    return header_.integer != 0;
  }
  std::optional<int64_t> time() const {
    if (kind() != Kind::kTime) return std::nullopt;
    return header_.integer;
  }
  const sluice_header& raw() const { return header_; }

 private:
  Header(std::string_view name, sluice_kind kind, std::string_view value = {}, int64_t integer = 0)
      : header_{sluice::bytes(name), kind, sluice::bytes(value), integer, 0} {}

  sluice_header header_{};
};
static_assert(sizeof(Header) == sizeof(sluice_header), "an array of one is an array of the other");

// A message, borrowed from its call.
class Record {
 public:
  explicit Record(const sluice_record& record) : record_(record) {}

  std::string_view body() const { return view(record_.body); }
  uint64_t id() const { return record_.id; }
  uint64_t published_ms() const { return record_.published_ms; }
  uint32_t attempt() const { return record_.attempt; }
  bool redelivered() const { return record_.redelivered; }
  std::string_view exchange() const { return view(record_.exchange); }
  std::string_view routing_key() const { return view(record_.routing_key); }
  std::optional<std::string_view> content_type() const {
    return optional_view(record_.content_type);
  }
  std::optional<std::string_view> content_encoding() const {
    return optional_view(record_.content_encoding);
  }
  std::optional<std::string_view> message_id() const { return optional_view(record_.message_id); }
  std::optional<std::string_view> correlation_id() const {
    return optional_view(record_.correlation_id);
  }
  std::optional<std::string_view> reply_to() const { return optional_view(record_.reply_to); }
  std::optional<std::string_view> type() const { return optional_view(record_.type); }

  // The first header of that name.
  std::optional<Header> header(std::string_view name) const {
    for (const Header& header : headers()) {
      if (header.name() == name) return header;
    }
    return std::nullopt;
  }

  class HeaderIterator {
   public:
    using value_type = Header;
    using reference = const Header&;
    using pointer = const Header*;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;

    HeaderIterator() = default;
    explicit HeaderIterator(const sluice_record* record) : record_(record) { ++*this; }
    const Header& operator*() const { return header_; }
    const Header* operator->() const { return &header_; }
    HeaderIterator& operator++() {
      sluice_header header;
      if (sluice_next_header(record_, &position_, &header)) {
        header_ = Header(header);
      } else {
        record_ = nullptr;
      }
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return record_ == nullptr; }

   private:
    const sluice_record* record_ = nullptr;
    size_t position_ = 0;
    Header header_;
  };
  // With a copy of the record, so that `for (auto& header : call[0].headers())` is right.
  struct Headers {
    sluice_record record;
    HeaderIterator begin() const { return HeaderIterator(&record); }
    std::default_sentinel_t end() const { return {}; }
  };
  Headers headers() const { return {record_}; }

 private:
  sluice_record record_;
};

// A message to publish. What is empty is left out; the empty exchange is the default one.
struct Output {
  std::string_view exchange = {};
  std::string_view routing_key = {};
  std::string_view body = {};
  std::string_view content_type = {};
  std::string_view content_encoding = {};
  std::string_view message_id = {};
  std::string_view correlation_id = {};
  std::string_view reply_to = {};
  std::string_view type = {};
  std::span<const Header> headers = {};
  uint64_t delay_ms = 0;
};

enum class Level {
  kDebug = SLUICE_DEBUG,
  kInfo = SLUICE_INFO,
  kWarning = SLUICE_WARNING,
  kError = SLUICE_ERROR,
};

// One call: what came, and the answer to it. Only while its handler runs.
class Call {
 public:
  explicit Call(sluice_call* call) : call_(call) {}

  // ---- What came ----
  uint32_t size() const { return sluice_record_count(call_); }
  // All zeros and empty where there is no such record.
  Record operator[](uint32_t index) const { return Record(sluice_record_at(call_, index)); }

  class RecordIterator {
   public:
    using value_type = Record;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;

    RecordIterator() = default;
    RecordIterator(const sluice_call* call, uint32_t index) : call_(call), index_(index) {}
    Record operator*() const { return Record(sluice_record_at(call_, index_)); }
    RecordIterator& operator++() {
      ++index_;
      return *this;
    }
    RecordIterator operator++(int) { return {call_, index_++}; }
    bool operator==(const RecordIterator&) const = default;

   private:
    const sluice_call* call_ = nullptr;
    uint32_t index_ = 0;
  };
  RecordIterator begin() const { return {call_, 0}; }
  RecordIterator end() const { return {call_, size()}; }

  // What the call before left for this key; what is set here does not change it.
  std::optional<std::string_view> state() const { return optional_view(sluice_state(call_)); }
  uint64_t state_version() const { return sluice_state_version(call_); }
  std::optional<std::string_view> key() const { return optional_view(sluice_key(call_)); }
  std::optional<sluice_window> window() const {
    sluice_window window;
    if (!sluice_in_window(call_, &window)) return std::nullopt;
    return window;
  }
  bool is_window_end() const { return sluice_is_window_end(call_); }
  uint64_t deadline_ns() const { return sluice_deadline_ns(call_); }
  uint32_t timeout_ms() const { return sluice_timeout_ms(call_); }
  uint32_t remaining_ms() const { return sluice_remaining_ms(call_); }

  // ---- The answer. These throw Error where they can not be done ----
  void result(std::string_view data) { result(SLUICE_WHOLE, data); }
  void result(uint32_t record, std::string_view data) {
    check(sluice_result(call_, record, data.data(), data.size()), "result");
  }
  void fail(std::string_view why) { sluice_fail_bytes(call_, why.data(), why.size()); }
  void fail_record(uint32_t record, std::string_view why) {
    check(sluice_fail_record_bytes(call_, record, why.data(), why.size()), "fail_record");
  }
  void set_state(std::string_view state) {
    check(sluice_set_state(call_, state.data(), state.size()), "set_state");
  }
  void drop_state() { sluice_drop_state(call_); }
  void publish(const Output& output) {
    // A Header is a sluice_header, and nothing else.
    const auto* headers = reinterpret_cast<const sluice_header*>(output.headers.data());
    const sluice_output raw{bytes(output.exchange),
                            bytes(output.routing_key),
                            bytes(output.body),
                            bytes(output.content_type),
                            bytes(output.content_encoding),
                            bytes(output.message_id),
                            bytes(output.correlation_id),
                            bytes(output.reply_to),
                            bytes(output.type),
                            headers,
                            output.headers.size(),
                            output.delay_ms};
    check(sluice_publish(call_, &raw), "publish");
  }
  void log(Level level, std::string_view line) {
    sluice_log_bytes(call_, static_cast<sluice_level>(level), line.data(), line.size());
  }

  sluice_call* raw() const { return call_; }

 private:
  static void check(int done, const char* what) {
    if (done < 0) throw Error(std::string(what) + ": " + sluice_error());
  }

  sluice_call* call_;
};

namespace detail {

// Calls it, and gives its result to the record, or the call.
template <typename Function, typename... Arguments>
void call_for_result(Call& call, uint32_t record, Function& function, Arguments&... arguments) {
  if constexpr (std::is_void_v<std::invoke_result_t<Function&, Arguments&...>>) {
    function(arguments...);
  } else {
    const auto result = function(arguments...);
    if constexpr (requires { result.has_value(); }) {
      if (result.has_value()) call.result(record, std::string_view(*result));
    } else {
      static_assert(std::is_convertible_v<decltype(result), std::string_view>,
                    "a handler gives nothing, or something that std::string_view can be made of");
      call.result(record, std::string_view(result));
    }
  }
}

// Exceptions end here: what is beneath is C.
template <typename Function>
void report_failure(Function&& report) {
  try {
    throw;
  } catch (const std::exception& error) {
    report(std::string_view(error.what()));
  } catch (...) {
    report(std::string_view("something was thrown that is not a std::exception"));
  }
}

}  // namespace detail

// Serves calls until their stream ends; main returns what this returns. `handler` takes a Call&.
template <typename Handler>
int run(Handler&& handler) {
  // A pointer to it, since a plain function can not be a void* itself.
  auto* function = std::addressof(handler);
  auto serve = [](sluice_call* raw, void* context) noexcept {
    Call call(raw);
    try {
      detail::call_for_result(call, SLUICE_WHOLE, **static_cast<decltype(function)*>(context),
                              call);
    } catch (...) {
      detail::report_failure([&](std::string_view why) { call.fail(why); });
    }
    return 0;
  };
  return sluice_run(serve, &function);
}

// The same record by record: `handler` takes a const Record& and a Call&. What it throws fails that
// record alone, and takes back what it has put into the answer for it.
template <typename Handler>
int run_each(Handler&& handler) {
  return run([&handler](Call& call) {
    for (uint32_t i = 0; i < call.size(); i++) {
      const Record record = call[i];
      const sluice_mark mark = sluice_mark_here(call.raw());
      try {
        detail::call_for_result(call, i, handler, record, call);
      } catch (...) {
        sluice_undo(call.raw(), mark);
        detail::report_failure([&](std::string_view why) { call.fail_record(i, why); });
      }
    }
  });
}

}  // namespace sluice

#endif
