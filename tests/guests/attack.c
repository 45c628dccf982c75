// Tries to get out of a sandbox, one way for each argument, after the first read. Prints "held"
// where the way is closed by an error; a forbidden call does not come back.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int held(int closed) {
  puts(closed ? "held" : "OPEN");
  return 0;
}

static void* wait_for_ever(void* unused) {
  for (;;) pause();
  return unused;
}

static int threads(void) {
  int made = 0;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 65536);
  for (pthread_t t; made < 10000 && !pthread_create(&t, &attributes, wait_for_ever, 0);) made++;
  printf("%d threads\n", made + 1);
  fflush(stdout);
  return made < 10000 ? 9 : 0;
}

static int files(void) {
  int opened = 0;
  while (opened < 10000 && open("/dev/null", O_RDONLY) >= 0) opened++;
  printf("%d files\n", opened);
  fflush(stdout);
  return 9;
}

static int fill(void) {
  static char block[4096];
  int fd = open("/tmp/big", O_CREAT | O_WRONLY, 0600);
  long total = 0;
  for (ssize_t put; (put = write(fd, block, sizeof block)) > 0;) total += put;
  printf("%ld bytes\n", total);
  fflush(stdout);
  return 9;
}

// Which descriptors there are beyond the streams, the standard input excepted.
static int descriptors(void) {
  for (int fd = 3; fd < 70000; fd++) {
    if (fcntl(fd, F_GETFD) >= 0) printf("descriptor %d\n", fd);
  }
  puts("looked");
  return 0;
}

static int list(const char* path) {
  DIR* d = opendir(path);
  if (!d) return held(1);
  for (struct dirent* e; (e = readdir(d));) {
    if (e->d_name[0] != '.') printf("%s ", e->d_name);
  }
  puts("");
  return 0;
}

static int identity(void) {
  struct {
    uint32_t version;
    int pid;
  } header = {0x20080522, 0};
  uint32_t sets[6] = {1, 1, 1, 1, 1, 1};
  syscall(SYS_capget, &header, sets);
  int none = 1;
  for (int i = 0; i < 6; i++) none &= sets[i] == 0;
  struct rlimit cores;
  getrlimit(RLIMIT_CORE, &cores);
  printf("uid %d gid %d pid %d caps %s cores %d\n", getuid(), getgid(), getpid(),
         none ? "none" : "SOME", (int)cores.rlim_max);
  return 0;
}

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "";
  const char* what = argc > 2 ? argv[2] : "";
  char buffer[64];
  if (!strcmp(how, "spend-first")) {
    while (clock() < atol(what) * (CLOCKS_PER_SEC / 1000)) {
    }
  }
  if (read(0, buffer, sizeof buffer) < 0) return 99;
  if (!strcmp(how, "spend-first")) return puts("done") < 0;
  if (!strcmp(how, "request")) return malloc(atol(what)) == 0;
  if (!strcmp(how, "open")) return held(open(what, O_RDONLY) < 0);
  if (!strcmp(how, "write")) return held(open(what, O_WRONLY | O_CREAT, 0600) < 0);
  if (!strcmp(how, "list")) return list(what);
  if (!strcmp(how, "identity")) return identity();
  if (!strcmp(how, "descriptors")) return descriptors();
  if (!strcmp(how, "threads")) return threads();
  if (!strcmp(how, "files")) return files();
  if (!strcmp(how, "fill")) return fill();
  if (!strcmp(how, "dotdot")) {
    for (int i = 0; i < 40; i++) chdir("..");
    return list(".");
  }
  if (!strcmp(how, "symlink")) {
    if (symlink("/etc", "/tmp/etc")) return 2;
    return held(open("/tmp/etc/passwd", O_RDONLY) < 0);
  }
  if (!strcmp(how, "kill-init")) {
    kill(1, SIGKILL);
    kill(1, SIGTERM);
    return held(kill(1, 0) == 0);
  }
  if (!strcmp(how, "kill-all")) {
    kill(-1, SIGKILL);
    return held(1);
  }
  if (!strcmp(how, "kill-group")) kill(0, SIGKILL);
  if (!strcmp(how, "kill-parent")) return held(kill(getppid(), SIGKILL) == 0);
  if (!strcmp(how, "raise-limit")) {
    struct rlimit more = {1 << 20, 1 << 20};
    return held(setrlimit(RLIMIT_NOFILE, &more) != 0);
  }
  if (!strcmp(how, "setuid")) return held((setuid(0), getuid()) != 0);
  if (!strcmp(how, "ptrace")) return held(ptrace(PTRACE_ATTACH, 1, 0, 0) != 0);
  if (!strcmp(how, "process_vm")) return held(syscall(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0) < 0);
  if (!strcmp(how, "socket")) return held(socket(AF_INET, SOCK_STREAM, 0) < 0);
  if (!strcmp(how, "unix")) {
    int pair[2];
    if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0) return held(0);
    return held(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0);
  }
  if (!strcmp(how, "mount")) return held(mount("tmpfs", "/tmp", "tmpfs", 0, 0) != 0);
  if (!strcmp(how, "umount")) return held(umount2("/tmp", MNT_DETACH) != 0);
  if (!strcmp(how, "pivot")) return held(syscall(SYS_pivot_root, ".", ".") != 0);
  if (!strcmp(how, "chroot")) return held(chroot("/tmp") != 0);
  if (!strcmp(how, "unshare")) return held(unshare(CLONE_NEWUSER) != 0);
  if (!strcmp(how, "setns")) return held(setns(0, 0) != 0);
  if (!strcmp(how, "bpf")) return held(syscall(SYS_bpf, 0, 0, 0) < 0);
  if (!strcmp(how, "keyctl")) return held(syscall(SYS_keyctl, 0, 0) < 0);
  if (!strcmp(how, "vfork")) return held(vfork() < 0);
  if (!strcmp(how, "clone3")) return held(syscall(SYS_clone3, buffer, 64) < 0 && errno == ENOSYS);
  if (!strcmp(how, "newuser")) {
    return held(syscall(SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_NEWUSER, 0, 0, 0,
                        0) < 0);
  }
  if (!strcmp(how, "execveat")) {
    // By the number that it was executed by, which must not be had again.
    int fd = atoi(what);
    if (dup2(0, fd) >= 0 || fcntl(0, F_DUPFD, fd) >= 0) return held(0);
    char* none[] = {0};
    syscall(SYS_execveat, fd, "", none, none, AT_EMPTY_PATH);
    return held(errno == EBADF);
  }
  if (!strcmp(how, "execveat-path")) {
    return held(syscall(SYS_execveat, AT_FDCWD, "/bin/sh", 0, 0, 0) < 0);
  }
  if (!strcmp(how, "lock")) {
    int fd = open("/dev/null", O_RDWR);
    struct flock whole = {.l_type = F_WRLCK};
    return held(!flock(fd, LOCK_EX | LOCK_NB) && !fcntl(fd, F_SETLK, &whole) &&
                fcntl(fd, F_GETLK, &whole) < 0);
  }
  if (!strcmp(how, "mknod")) return held(mknod("/tmp/sda", S_IFBLK | 0600, 0x800) != 0);
  if (!strcmp(how, "memfd")) return held(syscall(SYS_memfd_create, "x", 0) < 0);
  if (!strcmp(how, "int80")) __asm__ volatile("int $0x80" ::"a"(20) : "memory");
  if (!strcmp(how, "x32")) return held(syscall(0x40000000 | 39) < 0);
  if (!strcmp(how, "linger")) {
    // Ends its first thread and goes on in another.
    pthread_t t;
    pthread_create(&t, 0, wait_for_ever, 0);
    pthread_exit(0);
  }
  return 98;
}
