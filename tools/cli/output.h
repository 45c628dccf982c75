#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tools/cli/admin.h"
#include "tools/cli/context.h"
#include "tools/cli/read_input.h"

// Where results go: stdout holds results and nothing else, stderr what is said about them.
namespace sluice::cli {

// One column of a table: `field` names a member of each object, "a/b" one of a nested object.
struct Column {
  std::string title;
  std::string field;
};

// A field's value for people: its unit is taken from the name's end (_bytes, _ms, _us, _at_ms).
std::string cell(std::string_view field, const Json& value);

// A list as a table with these columns, or as the array it is; `none` is said where it is empty.
void print_list(const Context& context, const Json& list, const std::vector<Column>& columns,
                std::string_view none);

// One object, a line a field, or as it is.
void print_object(const Context& context, const Json& object);

// What a command has done: `sentence` for people, `object` for programs.
void print_done(const Context& context, std::string_view sentence, const Json& object);

// One JSON value on one line.
void print_json_line(const Json& value);

// All of it, or an Error (kIo) where stdout takes no more.
Expected<> write_stdout(std::string_view bytes);
Expected<> flush_stdout();

// A counter on stderr that is rewritten in place; silent where stderr is no terminal.
class Progress {
 public:
  Progress();
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Cheap to call for every message: draws a few times a second.
  void update(std::string_view what, uint64_t count);
  // A line of one's own, for a step that may take a while: drawn at once.
  void say(std::string_view line);

 private:
  bool terminal_;
  bool drawn_ = false;
  int64_t next_ms_;
};

}  // namespace sluice::cli
