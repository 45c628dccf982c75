#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "tools/cli/context.h"
#include "tools/cli/output.h"
#include "tools/cli/screen.h"
#include "tools/cli/text.h"
#include "tools/cli/top_model.h"

namespace sluice::cli {
namespace {

struct Options {
  bool once = false;
  uint64_t interval_ms = 1'000;
};

int64_t now_us() {
  using namespace std::chrono;
  return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

Expected<TopSample> take_sample(Admin& admin) {
  TopSample sample{.time_us = now_us()};
  const auto get = [&](const char* path, Json& into) -> Expected<> {
    auto answer = admin.get(path);
    if (!answer) return std::unexpected(answer.error());
    into = std::move(answer->body);
    return {};
  };
  for (const auto& [path, into] :
       {std::pair("/api/overview", &sample.overview), std::pair("/api/queues", &sample.queues),
        std::pair("/api/functions", &sample.functions),
        std::pair("/api/subscriptions", &sample.subscriptions)}) {
    if (const auto got = get(path, *into); !got) return std::unexpected(got.error());
  }
  return sample;
}

Expected<> print_once(const Context& context, Admin& admin, const Options& options,
                      const TopSample& first) {
  std::this_thread::sleep_for(std::chrono::milliseconds(options.interval_ms));
  const auto second = take_sample(admin);
  if (!second) return std::unexpected(second.error());
  const Json figures = top_figures(first, *second);
  if (context.json()) {
    print_object(context, figures);
    return {};
  }
  constexpr size_t kAnyWidth = SIZE_MAX;
  for (const std::string& line : top_lines(figures, 0, kAnyWidth)) {
    if (const auto written = write_stdout(line + "\n"); !written) return written;
  }
  return {};
}

// A broker that goes away is said, and looked for again each second: it may be starting.
Expected<> watch(Admin& admin, const Options& options, TopSample before) {
  Screen screen;
  TopSample now = before;
  std::string trouble;
  int64_t next_us = now_us();
  while (true) {
    const Screen::Size size = Screen::size();
    if (trouble.empty()) {
      screen.draw(top_lines(top_figures(before, now), size.rows, size.columns));
    } else {
      screen.draw({trouble.substr(0, size.columns)});
    }
    const int64_t left_us = next_us - now_us();
    const char key = screen.wait(left_us > 0 ? static_cast<int>(left_us / 1000) + 1 : 0);
    if (key == 'q' || key == 'Q') return {};
    if (now_us() < next_us) continue;  // another key, or another size
    next_us = now_us() + static_cast<int64_t>(options.interval_ms) * 1000;
    auto sample = take_sample(admin);
    trouble = sample ? "" : printable(sample.error().message);
    if (!sample) continue;
    before = std::move(now);
    now = std::move(*sample);
  }
}

Expected<> top(const Context& context, const Options& options) {
  auto admin = Admin::open(context.admin_url);
  if (!admin) return std::unexpected(admin.error());
  auto first = take_sample(*admin);
  if (!first) return std::unexpected(first.error());
  if (options.once || context.json() || isatty(STDOUT_FILENO) != 1) {
    return print_once(context, *admin, options, *first);
  }
  return watch(*admin, options, std::move(*first));
}

}  // namespace

void add_top_command(CLI::App& app, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      app, context, "top", "A live view of queues, subscriptions, functions and their sandboxes",
      options, top);
  command->add_flag(
      "--once", options->once,
      "Print one view after one interval and end; so it is in a pipe and with -o json");
  add_parsed(command, "--interval", options->interval_ms, parse_duration_ms,
             "How often it looks, from 100ms on; 1s")
      ->check([](const std::string& text) {
        const auto interval = parse_duration_ms(text);
        return interval && (*interval < 100 || *interval > 3'600'000) ? "from 100ms to 1h" : "";
      })
      ->type_name("TIME");
  command->footer(
      "Rates are those of the last interval. RUNNING, WARM and TARGET are sandboxes in a call, "
      "all\n"
      "that wait or run, and what the demand asks for. EXITS and PAGES are those of a mean call.\n"
      "q or Ctrl-C leaves.");
}

}  // namespace sluice::cli
