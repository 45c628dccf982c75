#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tools/cli/function_commands.h"
#include "tools/cli/output.h"
#include "tools/cli/text.h"

namespace sluice::cli {
namespace {

struct Field {
  const char* name;  // the broker's
  const char* title;
};

// A group of lines below its title; a group without lines is not shown.
class Group {
 public:
  explicit Group(std::string title) : title_(std::move(title)) {}

  void add(std::string title, std::string text) {
    if (!text.empty()) rows_.emplace_back(std::move(title), std::move(text));
  }
  // What the broker says as it is; nothing where it says nothing.
  void add_from(const Json& object, std::initializer_list<Field> fields) {
    for (const Field& field : fields) {
      const auto found = object.find(field.name);
      if (found != object.end() && !found->is_null()) add(field.title, cell(field.name, *found));
    }
  }
  void print(size_t width) const {
    if (rows_.empty()) return;
    std::string text = title_ + "\n";
    for (const auto& [title, value] : rows_) {
      text += fmt::format("  {:<{}}  {}\n", title, width, value);
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  size_t width() const {
    size_t width = 0;
    for (const auto& row : rows_) width = std::max(width, row.first.size());
    return width;
  }

 private:
  const std::string title_;
  std::vector<std::pair<std::string, std::string>> rows_;
};

uint64_t figure(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

std::string text_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? "" : cell(name, *found);
}

bool is_set(const Json& object, const char* name) {
  const std::string text = text_of(object, name);
  return !text.empty() && text != "-";
}

Group what_it_is(const Json& function) {
  Group group(fmt::format("function '{}', version {}", text_of(function, "name"),
                          text_of(function, "version")));
  std::string program =
      text_of(function, is_set(function, "image_path") ? "image_path" : "image_name");
  if (is_set(function, "args")) program += " " + text_of(function, "args");
  group.add("runs", program);
  group.add_from(function, {{"env", "environment"}});
  if (figure(function, "rootfs_bytes") > 0) {
    group.add("root file system", fmt::format("{}, sha256 {}", text_of(function, "rootfs_bytes"),
                                              text_of(function, "rootfs_sha256")));
  }
  if (figure(function, "image_bytes") > 0) {
    group.add("image", fmt::format("{}, sha256 {}", text_of(function, "image_bytes"),
                                   text_of(function, "image_sha256")));
  }
  if (const auto protocol = function.find("protocol");
      protocol != function.end() && protocol->is_boolean()) {
    group.add("speaks", protocol->get<bool>() ? "the function protocol" : "stdin and stdout");
  }
  std::string state = text_of(function, "state");
  if (is_set(function, "state_reason")) state += ": " + text_of(function, "state_reason");
  group.add("state", state);
  if (is_set(function, "snapshot")) {
    group.add("snapshot", fmt::format("at {}, loaded in {}", text_of(function, "snapshot"),
                                      human_duration_us(figure(function, "load_us"))));
  }
  group.add_from(function, {{"owner", "owner"}, {"created_at_ms", "deployed"}});
  group.add("calls",
            fmt::format("{}, {} failed", figure(function, "calls"), figure(function, "failures")));
  return group;
}

Group limits(const Json& function) {
  Group group("limits of a call");
  group.add_from(function, {{"memory_bytes", "memory"}, {"timeout_ms", "time"}});
  if (function.contains("cpu_ms")) {
    group.add("CPU time",
              figure(function, "cpu_ms") == 0 ? "as the time" : text_of(function, "cpu_ms"));
  }
  group.add_from(function, {{"output_bytes", "result"},
                            {"log_bytes", "log kept"},
                            {"open_files", "open files"},
                            {"threads", "threads"},
                            {"tmpfs_bytes", "/tmp"}});
  if (function.contains("concurrency")) {
    group.add("at the same time", figure(function, "concurrency") == 0
                                      ? "as many as the executor runs"
                                      : text_of(function, "concurrency"));
  }
  return group;
}

std::string share(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.1f}%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

double mean(uint64_t sum, uint64_t count) {
  return static_cast<double>(sum) / static_cast<double>(count);
}

Group sandboxes(const Json& stats) {
  Group group("sandboxes");
  const auto of = [&](const char* name) { return figure(stats, name); };
  group.add("now", fmt::format("{} warm, {} of them in a call; {} wanted", of("sandboxes"),
                               of("running"), of("target")));
  group.add("calls waiting", fmt::format("{}", of("queued")));
  group.add("memory", human_bytes(of("memory_bytes")));
  const uint64_t calls = of("calls");
  group.add("calls", fmt::format("{}, {} warm, {}", calls, share(of("warm_hits"), calls),
                                 counted(of("cold_starts"), "cold start")));
  if (calls > 0) {
    group.add("a call", fmt::format("{}, {:.1f} exits, {:.1f} pages put back",
                                    human_duration_us(of("run_us") / calls),
                                    mean(of("exits"), calls), mean(of("dirty_pages"), calls)));
  }
  const uint64_t clones = of("clones");
  group.add("cloned", clones == 0 ? "0"
                                  : fmt::format("{}, {} each", clones,
                                                human_duration_us(of("clone_us") / clones)));
  group.add("put back", fmt::format("{}", of("resets")));
  group.add("thrown away", fmt::format("{}", of("discarded")));
  return group;
}

}  // namespace

void print_function(const Json& function) {
  std::vector<Group> groups = {what_it_is(function), limits(function)};
  if (const auto stats = function.find("stats"); stats != function.end() && stats->is_object()) {
    groups.push_back(sandboxes(*stats));
  }
  size_t width = 0;
  for (const Group& group : groups) width = std::max(width, group.width());
  for (const Group& group : groups) group.print(width);
}

}  // namespace sluice::cli
