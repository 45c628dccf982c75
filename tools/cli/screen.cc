#include "tools/cli/screen.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <string_view>

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace sluice::cli {
namespace {

constexpr std::string_view kEnter = "\033[?1049h\033[?25l";
constexpr std::string_view kLeave = "\033[?25h\033[?1049l";

// What a signal's handler needs; it may call no more than write, tcsetattr and _exit.
termios saved_terminal;
bool terminal_changed = false;

void put(std::string_view text) {
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
}

void restore() {
  put(kLeave);
  if (terminal_changed) tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
}

void leave(int signal) {
  restore();
  _exit(signal == SIGINT ? 0 : 128 + signal);
}

void wake(int) {}

// Without SA_RESTART for the change of size: poll() is to end.
void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

}  // namespace

Screen::Screen() : keys_(isatty(STDIN_FILENO) == 1) {
  if (keys_ && tcgetattr(STDIN_FILENO, &saved_terminal) == 0) {
    termios raw = saved_terminal;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    raw.c_cc[VSUSP] = _POSIX_VDISABLE;  // a stopped program would leave the terminal as it is now
    terminal_changed = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) handle(signal, leave);
  handle(SIGWINCH, wake);
  put(kEnter);
}

Screen::~Screen() {
  restore();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH}) handle(signal, SIG_DFL);
}

Screen::Size Screen::size() {
  winsize window{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_row == 0 || window.ws_col == 0) {
    return {24, 80};
  }
  return {window.ws_row, window.ws_col};
}

void Screen::draw(const std::vector<std::string>& lines) {
  std::string text = "\033[H";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) text += "\r\n";
    text += lines[i] + "\033[K";
  }
  text += "\033[J";
  put(text);
}

char Screen::wait(int timeout_ms) {
  pollfd key{keys_ ? STDIN_FILENO : -1, POLLIN, 0};
  if (poll(&key, 1, timeout_ms) <= 0) return 0;
  char pressed = 0;
  if (read(STDIN_FILENO, &pressed, 1) == 1) return pressed;
  keys_ = false;  // its end: there is nothing more to come
  return 0;
}

}  // namespace sluice::cli
