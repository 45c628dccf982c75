// Preloaded into a broker under test: kills it, or lets its disk fail, at a named point. So what is
// tested is the program that ships, and it holds no code for tests.
//
// SLUICE_CRASH_AT is CALL:NAME:HOW:COUNT, the COUNT-th such call (from 1) in the process:
//   CALL   write, sync or rename, of a file whose name contains NAME; or confirm, a write to a
//          socket that holds a basic.ack (NAME is then ignored)
//   HOW    before, after: SIGKILL there. half: of a write, behind half of its bytes.
//          EIO, ENOSPC: this call and all later ones fail so. short: ENOSPC behind half the bytes.
//          A confirm that is sent after such a failure is told on stderr.

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static char point_call[16], point_name[64], point_how[16];
static long point_count;  // 0: no point is set
static long calls_met;

__attribute__((constructor)) static void read_point(void) {
  const char* point = getenv("SLUICE_CRASH_AT");
  if (point != NULL && sscanf(point, "%15[^:]:%63[^:]:%15[^:]:%ld", point_call, point_name,
                              point_how, &point_count) != 4) {
    fprintf(stderr, "SLUICE_CRASH_AT: not CALL:NAME:HOW:COUNT\n");
    abort();
  }
  // Not for the broker's children.
  unsetenv("SLUICE_CRASH_AT");
  unsetenv("LD_PRELOAD");
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static bool how(const char* name) { return strcmp(point_how, name) == 0; }

// Whether this call is the one, or one behind it.
static bool met(void) { return __atomic_add_fetch(&calls_met, 1, __ATOMIC_RELAXED) >= point_count; }

static bool names_file(int fd) {
  char link[32], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0 || path[0] != '/') return false;
  path[length] = '\0';
  return strstr(strrchr(path, '/'), point_name) != NULL;
}

static bool is_call(const char* call) { return point_count > 0 && strcmp(point_call, call) == 0; }

static bool holds_confirm(const struct iovec* parts, size_t count) {
  // A frame of 13 bytes with method 60.80; the channel in front of it may be any.
  static const char ack[] = {0, 0, 0, 13, 0, 60, 0, 80};
  for (size_t i = 0; i < count; ++i) {
    if (memmem(parts[i].iov_base, parts[i].iov_len, ack, sizeof ack) != NULL) return true;
  }
  return false;
}

static bool is_socket(int fd) {
  int type;
  socklen_t length = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
}

// The disk has failed by now.
static bool failed(void) {
  return point_count > 0 && (how("EIO") || how("ENOSPC") || how("short")) &&
         __atomic_load_n(&calls_met, __ATOMIC_RELAXED) >= point_count;
}

static void watch(const struct iovec* parts, size_t count) {
  if (failed() && holds_confirm(parts, count)) {
    fprintf(stderr, "crash_at: a confirm after the failure\n");
  }
}

#define REAL(name) (__extension__(__typeof__(&name)) dlsym(RTLD_NEXT, #name))

// Runs a call that is met: kills before or after it, or answers with the error.
#define AT_POINT(otherwise, call)                      \
  do {                                                 \
    if (how("before")) die();                          \
    if (how("EIO") || how("ENOSPC") || how("short")) { \
      errno = how("EIO") ? EIO : ENOSPC;               \
      return otherwise;                                \
    }                                                  \
    __typeof__(call) result = call;                    \
    if (how("after")) die();                           \
    return result;                                     \
  } while (0)

ssize_t write(int fd, const void* bytes, size_t count) {
  struct iovec part = {(void*)bytes, count};
  bool file = is_call("write") && names_file(fd);
  if (is_socket(fd)) watch(&part, 1);
  bool confirm = is_call("confirm") && is_socket(fd) && holds_confirm(&part, 1);
  if ((!file && !confirm) || !met()) return REAL(write)(fd, bytes, count);
  if (file && (how("half") || how("short"))) {
    ssize_t written = REAL(write)(fd, bytes, count / 2);
    if (how("half")) die();
    if (written > 0 && __atomic_load_n(&calls_met, __ATOMIC_RELAXED) == point_count) return written;
  }
  AT_POINT(-1, REAL(write)(fd, bytes, count));
}

ssize_t writev(int fd, const struct iovec* parts, int count) {
  if (is_socket(fd)) watch(parts, (size_t)count);
  if (!is_call("confirm") || !is_socket(fd) || !holds_confirm(parts, (size_t)count) || !met()) {
    return REAL(writev)(fd, parts, count);
  }
  AT_POINT(-1, REAL(writev)(fd, parts, count));
}

ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  watch(message->msg_iov, message->msg_iovlen);
  if (!is_call("confirm") || !holds_confirm(message->msg_iov, message->msg_iovlen) || !met()) {
    return REAL(sendmsg)(fd, message, flags);
  }
  AT_POINT(-1, REAL(sendmsg)(fd, message, flags));
}

int fdatasync(int fd) {
  if (!is_call("sync") || !names_file(fd) || !met()) return REAL(fdatasync)(fd);
  AT_POINT(-1, REAL(fdatasync)(fd));
}

int fsync(int fd) {
  if (!is_call("sync") || !names_file(fd) || !met()) return REAL(fsync)(fd);
  AT_POINT(-1, REAL(fsync)(fd));
}

int rename(const char* from, const char* to) {
  const char* name = strrchr(to, '/');
  if (!is_call("rename") || strstr(name == NULL ? to : name, point_name) == NULL || !met()) {
    return REAL(rename)(from, to);
  }
  AT_POINT(-1, REAL(rename)(from, to));
}
