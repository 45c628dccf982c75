// Uses the system calls that ordinary programs use and checks what they answer. Prints one line for
// each mistake and "done".
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define EXPECT(condition)                                                              \
  do {                                                                                 \
    if (!(condition)) printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
  } while (0)

static void files(void) {
  EXPECT(mkdir("/tmp/a", 0755) == 0);
  EXPECT(mkdir("/tmp/a", 0755) < 0 && errno == EEXIST);
  EXPECT(chdir("/tmp/a") == 0);
  int fd = open("f", O_CREAT | O_EXCL | O_RDWR, 0644);
  EXPECT(fd == 3);
  EXPECT(write(fd, "hello world", 11) == 11);
  EXPECT(lseek(fd, 6, SEEK_SET) == 6);
  char buffer[32] = "";
  EXPECT(read(fd, buffer, sizeof buffer) == 5 && !memcmp(buffer, "world", 5));
  EXPECT(pread(fd, buffer, 5, 0) == 5 && !memcmp(buffer, "hello", 5));
  EXPECT(pwrite(fd, "J", 1, 0) == 1);
  int copy = dup(fd);
  EXPECT(lseek(copy, 0, SEEK_CUR) == 11);
  EXPECT(ftruncate(fd, 5) == 0);
  struct stat s;
  EXPECT(fstat(copy, &s) == 0 && s.st_size == 5 && S_ISREG(s.st_mode));
  close(copy);
  EXPECT(rename("f", "/tmp/g") == 0);
  EXPECT(access("/tmp/a/f", F_OK) < 0 && errno == ENOENT);
  EXPECT(access("/tmp/a/../g", F_OK) == 0);
  EXPECT(unlink("/tmp/g") == 0);
  EXPECT(pread(fd, buffer, 5, 0) == 5 && !memcmp(buffer, "Jello", 5));
  close(fd);
  EXPECT(close(fd) < 0 && errno == EBADF);
  EXPECT(open("/etc/passwd", O_RDONLY) < 0 && errno == ENOENT);
  EXPECT(open("/tmp/a/x/y", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
  DIR* d = opendir("/tmp");
  int entries = 0;
  while (d && readdir(d)) entries++;
  EXPECT(entries == 3);
  if (d) closedir(d);
  EXPECT(chdir("/") == 0 && rmdir("/tmp/a") == 0);
  FILE* t = tmpfile();
  EXPECT(t == 0 || fputs("x", t) >= 0);
  fd = open("/tmp/big", O_CREAT | O_WRONLY, 0600);
  static char block[65536];
  long total = 0, put;
  while ((put = write(fd, block, sizeof block)) > 0) total += put;
  EXPECT(put < 0 && errno == ENOSPC && total > (1 << 20));
  close(fd);
  int fds[2000], opened = 0;
  while (opened < 2000 && (fds[opened] = open("/dev/null", O_RDONLY)) >= 0) opened++;
  EXPECT(opened < 2000 && errno == EMFILE);
  while (opened > 0) close(fds[--opened]);
}

static void memory(void) {
  char* a = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT(a != MAP_FAILED);
  memset(a, 7, 1 << 20);
  char* b = mremap(a, 1 << 20, 3 << 20, MREMAP_MAYMOVE);
  EXPECT(b != MAP_FAILED && b[0] == 7 && b[(1 << 20) - 1] == 7 && b[1 << 20] == 0);
  EXPECT(madvise(b, 4096, MADV_DONTNEED) == 0 && b[0] == 0 && b[4096] == 7);
  EXPECT(munmap(b + 4096, 4096) == 0);
  char* c = mmap(b + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  EXPECT(c == b + 4096 && c[0] == 0);
  EXPECT(read(open("/dev/urandom", O_RDONLY), c, 16) < 0 && errno == EFAULT);
  EXPECT(mprotect(c, 4096, PROT_READ | PROT_WRITE) == 0);
  c[0] = 1;
  EXPECT(mmap(0, 1ull << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
         errno == ENOMEM);
  for (int i = 0; i < 1000; i++) {
    char* p = malloc(200000);
    EXPECT(p && p[0] == 0);
    p[0] = p[199999] = 1;
    free(p);
    if (!p || p == 0) break;
    if (i == 3) i = 1000;
  }
  char* grown = sbrk(0);
  EXPECT(sbrk(8192) == grown);
  memset(grown, 9, 8192);
  EXPECT(sbrk(-8192) == grown + 8192 && sbrk(8192) == grown && grown[0] == 0 && grown[8191] == 0);
}

static void process(void) {
  struct timespec a, b;
  EXPECT(clock_gettime(CLOCK_MONOTONIC, &a) == 0);
  struct timespec nap = {0, 20000000};
  EXPECT(nanosleep(&nap, 0) == 0);
  EXPECT(clock_gettime(CLOCK_MONOTONIC, &b) == 0);
  EXPECT((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec >= 20000000);
  EXPECT(time(0) > 1700000000);
  unsigned char r[2][32];
  EXPECT(getrandom(r[0], 32, 0) == 32 && getrandom(r[1], 32, 0) == 32 && memcmp(r[0], r[1], 32));
  EXPECT(getauxval(AT_RANDOM) != 0 && getauxval(AT_PAGESZ) == 4096);
  EXPECT(getpid() == 1 && getuid() == 0);
  struct utsname u;
  EXPECT(uname(&u) == 0 && !strcmp(u.sysname, "Linux") && !strcmp(u.machine, "x86_64"));
  struct rlimit limit;
  EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 64);
  EXPECT(!isatty(0) && !isatty(1));
  char exe[256];
  EXPECT(readlink("/proc/self/exe", exe, sizeof exe) > 0);
  struct pollfd p = {.fd = 0, .events = POLLIN};
  EXPECT(poll(&p, 1, 1000) == 1 && (p.revents & POLLIN));
}

static void input(void) {
  char buffer[16];
  struct stat s;
  EXPECT(read(0, buffer, 4) == 4 && !memcmp(buffer, "0123", 4));
  EXPECT(fstat(0, &s) == 0 && S_ISREG(s.st_mode) && s.st_size == 10);
  EXPECT(lseek(0, 0, SEEK_CUR) == 4 && lseek(0, 0, SEEK_END) == 10 && lseek(0, 8, SEEK_SET) == 8);
  int available = 0;
  EXPECT(ioctl(0, FIONREAD, &available) == 0 && available == 2);
  EXPECT(read(open("/dev/stdin", O_RDONLY), buffer, 16) == 2 && !memcmp(buffer, "89", 2));
  EXPECT(read(0, buffer, 16) == 0);
  EXPECT(pread(0, buffer, 2, 3) == 2 && !memcmp(buffer, "34", 2));
  close(3);
}

int main(void) {
  struct stat s;
  EXPECT(fstat(0, &s) == 0 && s.st_size == 0 && lseek(0, 0, SEEK_CUR) == 0);
  input();
  files();
  memory();
  process();
  printf("done\n");
  return 0;
}
