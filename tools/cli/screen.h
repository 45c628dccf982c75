#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace sluice::cli {

// The terminal as a screen that is redrawn: its other buffer, no cursor, keys read one by one. Put
// back when it goes out of scope, and when a signal ends the program: Ctrl-C leaves with status 0.
// One at a time, on the main thread.
class Screen {
 public:
  struct Size {
    size_t rows;
    size_t columns;
  };

  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  static Size size();
  // In the place of what is shown; at most as many lines as there are rows.
  void draw(const std::vector<std::string>& lines);
  // Until `timeout_ms` have passed, the size has changed, or a key was pressed; that key, else 0.
  char wait(int timeout_ms);

 private:
  bool keys_;  // stdin is a terminal too
};

}  // namespace sluice::cli
