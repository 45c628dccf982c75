#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "tools/cli/context.h"
#include "tools/cli/limits.h"
#include "tools/cli/output.h"
#include "tools/cli/publisher.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

// How long a wait for input goes on before the connection is looked after again.
constexpr int kIdleMs = 1'000;

struct Options {
  std::string queue;
  std::string exchange;
  std::string key;
  PublishProperties properties;
  uint64_t count = 1;
  double rate = 0;  // messages per second; 0 for as fast as it goes
  bool lines = false;
  std::string input = "-";
};

// Lets message number n go n/rate seconds after the first one.
class Pace {
 public:
  explicit Pace(double rate) : rate_(rate), start_(Clock::now()) {}

  // Listens to the broker until the next message is due.
  Expected<> wait(Publisher& publisher) {
    if (rate_ <= 0) return {};
    const auto due =
        start_ + std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(static_cast<double>(sent_) / rate_));
    ++sent_;
    while (true) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
      if (left <= 0) return {};
      const auto heard = publisher.listen(static_cast<int>(std::min<int64_t>(left, kIdleMs)));
      if (!heard) return heard;
    }
  }

 private:
  double rate_;
  Clock::time_point start_;
  uint64_t sent_ = 0;
};

// The lines of a file or pipe that may be slow to come. Owns its descriptor.
class Lines {
 public:
  explicit Lines(int fd) : fd_(fd) {}
  ~Lines() {
    if (fd_ != STDIN_FILENO) close(fd_);
  }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  // The next line without its line feed, nullopt at the end. Looks after the connection meanwhile.
  Expected<std::optional<std::string>> next(Publisher& publisher) {
    while (true) {
      const size_t end = buffer_.find('\n', scanned_);
      if (end != std::string::npos) return take(end, 1);
      scanned_ = buffer_.size();
      if (ended_) return buffer_.size() == start_ ? std::nullopt : take(buffer_.size(), 0);
      if (buffer_.size() - start_ > kInputBytesMax) {
        return fail(Code::kLimit,
                    fmt::format("a line is longer than {}", human_bytes(kInputBytesMax)));
      }
      if (const auto filled = fill(publisher); !filled) return std::unexpected(filled.error());
    }
  }

 private:
  std::optional<std::string> take(size_t end, size_t separator) {
    std::string line = buffer_.substr(start_, end - start_);
    start_ = scanned_ = end + separator;
    return line;
  }

  Expected<> fill(Publisher& publisher) {
    buffer_.erase(0, start_);
    scanned_ -= start_;
    start_ = 0;
    pollfd readable{fd_, POLLIN, 0};
    while (poll(&readable, 1, kIdleMs) == 0) {
      if (const auto heard = publisher.listen(0); !heard) return heard;
    }
    char chunk[64 * 1024];
    const ssize_t got = read(fd_, chunk, sizeof chunk);
    if (got < 0 && errno != EINTR) {
      return fail(Code::kIo, fmt::format("cannot read the lines: {}", std::strerror(errno)));
    }
    if (got > 0) buffer_.append(chunk, static_cast<size_t>(got));
    ended_ = got == 0;
    return {};
  }

  int fd_;
  std::string buffer_;
  size_t start_ = 0;    // of the line that is next
  size_t scanned_ = 0;  // no line feed between start_ and here
  bool ended_ = false;
};

Expected<> publish_lines(const Options& options, Publisher& publisher) {
  const int fd =
      options.input == "-" ? STDIN_FILENO : open(options.input.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return fail(Code::kIo, fmt::format("cannot read {}: {}", options.input, std::strerror(errno)));
  }
  Lines lines(fd);
  Pace pace(options.rate);
  Progress progress;
  while (true) {
    const auto line = lines.next(publisher);
    if (!line) return std::unexpected(line.error());
    if (!*line) return publisher.finish();
    if (const auto due = pace.wait(publisher); !due) return due;
    if (const auto sent = publisher.publish(**line); !sent) return sent;
    progress.update("messages published", publisher.counts().published);
  }
}

Expected<> publish_copies(const Options& options, const std::string& body, Publisher& publisher) {
  Pace pace(options.rate);
  Progress progress;
  for (uint64_t i = 0; i < options.count; ++i) {
    if (const auto due = pace.wait(publisher); !due) return due;
    if (const auto sent = publisher.publish(body); !sent) return sent;
    progress.update("messages published", publisher.counts().published);
  }
  return publisher.finish();
}

// What became of the messages, also where something broke on the way.
Expected<> report(const Context& context, const Options& options, const Expected<>& done,
                  const Publisher::Counts& counts) {
  const std::string place = options.queue.empty() ? fmt::format("exchange '{}' with the key '{}'",
                                                                options.exchange, options.key)
                                                  : fmt::format("queue '{}'", options.queue);
  if (context.json()) {
    print_json_line({{"published", counts.published},
                     {"confirmed", counts.confirmed},
                     {"returned", counts.returned},
                     {"refused", counts.refused}});
  }
  if (!done) {
    return fail(done.error().code,
                fmt::format("{}; {} of {} published were confirmed", done.error().message,
                            counts.confirmed, counted(counts.published, "message")));
  }
  if (counts.returned > 0) {
    const char* hint = options.queue.empty() ? "bind a queue with 'sluice bind'"
                                             : "declare it with 'sluice queue declare'";
    return fail(Code::kNotFound, fmt::format("the broker returned {} of {} for {}: {}; {}",
                                             counts.returned, counted(counts.published, "message"),
                                             place, counts.return_reason, hint));
  }
  if (counts.refused > 0) {
    return fail(Code::kLimit,
                fmt::format("the broker refused {} of {} for {} (basic.nack)", counts.refused,
                            counted(counts.published, "message"), place));
  }
  if (!context.json()) {
    print_done(context,
               fmt::format("{} published to {} and confirmed", counted(counts.published, "message"),
                           place),
               {});
  }
  return {};
}

Expected<> publish(const Context& context, const Options& options) {
  std::string body;
  if (!options.lines) {
    auto input = read_input(options.input, kInputBytesMax);
    if (!input) return std::unexpected(input.error());
    body = std::move(*input);
  }
  auto client = AmqpClient::open(context.amqp_url);
  if (!client) return std::unexpected(client.error());
  auto publisher =
      Publisher::open(*client, options.exchange,
                      options.queue.empty() ? options.key : options.queue, options.properties);
  if (!publisher) return std::unexpected(publisher.error());
  const auto done = options.lines ? publish_lines(options, *publisher)
                                  : publish_copies(options, body, *publisher);
  if (done) client->close();
  return report(context, options, done, publisher->counts());
}

void add_property_options(CLI::App* command, PublishProperties& properties) {
  add_parsed_each(command, "--header", properties.headers, parse_key_value,
                  "A header, its value a string; may be repeated")
      ->type_name("K=V");
  command->add_option("--correlation-id", properties.correlation_id, "By which an answer is known")
      ->check(short_string)
      ->type_name("ID");
  command->add_option("--reply-to", properties.reply_to, "The queue that an answer goes to")
      ->check(short_string)
      ->type_name("Q");
  command->add_option("--content-type", properties.content_type, "Such as application/json")
      ->check(short_string)
      ->type_name("TYPE");
}

}  // namespace

void add_publish_command(CLI::App& app, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, context, "publish",
                                  "Publish messages; done when the broker has confirmed them all",
                                  options, publish);
  CLI::Option* queue = command->add_option("--queue", options->queue, "Straight to this queue")
                           ->check(short_string)
                           ->type_name("Q");
  CLI::Option* exchange =
      command->add_option("--exchange", options->exchange, "To this exchange, with --key")
          ->check(short_string)
          ->excludes(queue)
          ->type_name("E");
  command->add_option("--key", options->key, "The routing key")
      ->check(short_string)
      ->needs(exchange)
      ->type_name("K");
  add_property_options(command, options->properties);
  CLI::Option* count = command->add_option("--count", options->count, "The message so many times")
                           ->check(above_zero)
                           ->type_name("N");
  command->add_option("--rate", options->rate, "Messages per second, at most")
      ->check(above_zero)
      ->type_name("R");
  command->add_flag("--lines", options->lines, "Each line is a message")->excludes(count);
  command->add_option("FILE", options->input, "The message's body; - is stdin")
      ->capture_default_str();
  command->callback([&context, options, queue, exchange] {
    if (queue->empty() && exchange->empty()) {
      throw CLI::RequiredError("--queue or --exchange");
    }
    context.action = [&context, options] { return publish(context, *options); };
  });
}

}  // namespace sluice::cli
