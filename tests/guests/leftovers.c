// Plants a secret everywhere that a program can leave something, and before that looks whether an
// earlier call has done so. Prints "count 1" and one line for each thing found. The input is the
// secret to plant.
#include <asm/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kPage = 4096, kHeap = 65536, kStack = 32768 };

static int counter;
static char in_data[64] = "as built";
static char in_bss[2 * kPage];
static char *heap, *sealed, *unmapped, *discarded;
static void* break_at_start;
static int first_free;  // descriptor, from the start
static char report[4096];

static void found(const char* what) {
  strncat(report, "found: ", sizeof report - strlen(report) - 1);
  strncat(report, what, sizeof report - strlen(report) - 1);
  strncat(report, "\n", sizeof report - strlen(report) - 1);
}

static int is_filled(const char* at, size_t bytes, char with) {
  for (size_t i = 0; i < bytes; i++) {
    if (at[i] != with) return 0;
  }
  return 1;
}

static void handler(int signal) { (void)signal; }

// The vector registers, MXCSR, the x87 control word and the flags around the read.
struct Registers {
  uint8_t ymm[16][32];
  uint32_t mxcsr;
  uint16_t x87_control, x87_status, x87_tag;
  uint16_t ds, es, fs, gs;
  uint64_t flags, rbx, r12, r15;
};
static struct Registers before, after;
static uint8_t environment[28];
static int has_avx;

#define EACH(M) \
  M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
#define SAVE_YMM(n) __asm__ volatile("vmovdqu %%ymm" #n ", %0" : "=m"(r->ymm[n]));
#define SAVE_XMM(n) __asm__ volatile("movdqu %%xmm" #n ", %0" : "=m"(r->ymm[n]));
#define LOAD_YMM(n) __asm__ volatile("vmovdqu %0, %%ymm" #n ::"m"(*(const uint8_t(*)[32])from));
#define LOAD_XMM(n) __asm__ volatile("movdqu %0, %%xmm" #n ::"m"(*(const uint8_t(*)[32])from));

static inline __attribute__((always_inline)) void save(struct Registers* r) {
  if (has_avx) {
    EACH(SAVE_YMM)
  } else {
    EACH(SAVE_XMM)
  }
  __asm__ volatile("stmxcsr %0" : "=m"(r->mxcsr));
  __asm__ volatile("fnstenv %0" : "=m"(environment));
  memcpy(&r->x87_control, environment, 2);
  memcpy(&r->x87_status, environment + 4, 2);
  memcpy(&r->x87_tag, environment + 8, 2);
  __asm__ volatile("fldenv %0" ::"m"(environment));
  __asm__ volatile("mov %%ds, %0\n mov %%es, %1\n mov %%fs, %2\n mov %%gs, %3"
                   : "=m"(r->ds), "=m"(r->es), "=m"(r->fs), "=m"(r->gs));
  __asm__ volatile("pushfq\n popq %0" : "=r"(r->flags));
}

static inline __attribute__((always_inline)) void load(const void* from) {
  if (has_avx) {
    EACH(LOAD_YMM)
  } else {
    EACH(LOAD_XMM)
  }
}

static void check_registers(void) {
  if (memcmp(before.ymm, after.ymm, sizeof before.ymm)) found("vector registers");
  if (before.mxcsr != after.mxcsr) found("MXCSR");
  if (before.x87_control != after.x87_control) found("x87 control word");
  if (before.x87_status != after.x87_status || before.x87_tag != after.x87_tag) found("x87 stack");
  if (before.ds != after.ds || before.es != after.es || before.fs != after.fs ||
      before.gs != after.gs) {
    found("segment selectors");
  }
  // All but the arithmetic flags, which the code around the read may change.
  if ((before.flags ^ after.flags) & ~0x8d5ull) found("flags");
}

static void check_memory(void) {
  if (++counter != 1) found("static counter");
  if (strcmp(in_data, "as built")) found("initialised data");
  if (!is_filled(in_bss, sizeof in_bss, 0)) found("zero-initialised data");
  if (!is_filled(heap, kHeap, 'h')) found("heap");
  if (!is_filled(sealed, kPage, 's')) found("read-only page's contents");
  if (!is_filled(unmapped, kPage, 'u')) found("page that was unmapped");
  if (!is_filled(discarded, kPage, 'd')) found("page that was discarded");
  if (sbrk(0) != break_at_start) found("break");
  int zero = open("/dev/zero", O_RDONLY);
  if (zero != first_free) found("open files");
  if (read(zero, sealed, 16) > 0) found("protection of the read-only page");
  close(zero);
  char* grown = sbrk(1 << 20);
  if (grown == (void*)-1 || !is_filled(grown, 1 << 20, 0)) found("memory behind the break");
  char* fresh = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fresh == MAP_FAILED || !is_filled(fresh, 1 << 20, 0)) found("fresh mapping");
}

static void check_stack(const char* secret) {
  volatile char room[kStack];
  size_t length = strlen(secret);
  for (size_t i = 0; i + 6 < kStack; i++) {
    if (!memcmp((char*)room + i, "SECRET", 6)) {
      found("stack");
      break;
    }
  }
  for (size_t i = 0; i < kStack; i++) room[i] = secret[i % length];
}

static void check_kernel(void) {
  struct stat status;
  if (stat("/tmp/left", &status) == 0) found("file");
  if (stat("/tmp/dir", &status) == 0) found("directory");
  if (stat("/tmp/kept", &status) != 0 || status.st_size != 4)
    found("file made before the snapshot");
  char directory[256];
  if (!getcwd(directory, sizeof directory) || strcmp(directory, "/")) found("working directory");
  if (umask(022) != 022) found("umask");
  struct sigaction action;
  sigaction(SIGUSR1, 0, &action);
  if (action.sa_handler != SIG_DFL) found("signal handler");
  sigset_t mask;
  sigprocmask(SIG_SETMASK, 0, &mask);
  if (sigismember(&mask, SIGUSR2)) found("signal mask");
  stack_t stack;
  sigaltstack(0, &stack);
  if (!(stack.ss_flags & SS_DISABLE)) found("signal stack");
  if (getenv("LEFT")) found("environment");
  char name[16];
  prctl(PR_GET_NAME, name);
  if (!strcmp(name, "left")) found("thread name");
  if (fcntl(0, F_GETFL) & O_NONBLOCK) found("flags of stdin");
  if (fcntl(10, F_GETFD) >= 0) found("duplicated descriptor");
  if (fcntl(1, F_GETFD) & FD_CLOEXEC) found("close-on-exec");
  uint64_t gs = 1;
  syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
  if (gs != 0) found("GS base");
}

static void plant(const char* secret) {
  size_t length = strlen(secret) + 1;
  strcpy(in_data, secret);
  for (size_t i = 0; i + length < sizeof in_bss; i += length) strcpy(in_bss + i, secret);
  for (size_t i = 0; i + length < kHeap; i += length) strcpy(heap + i, secret);
  mprotect(sealed, kPage, PROT_READ | PROT_WRITE);
  strcpy(sealed, secret);
  strcpy(unmapped, secret);
  munmap(unmapped, kPage);
  strcpy(discarded, secret);
  madvise(discarded, kPage, MADV_DONTNEED);
  char* grown = sbrk(1 << 20);
  memset(grown, secret[0], 1 << 20);
  char* fresh = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(fresh, secret[0], 1 << 20);
  int fd = open("/tmp/left", O_CREAT | O_RDWR, 0600);
  if (write(fd, secret, length) < 0) abort();
  fd = open("/tmp/kept", O_WRONLY | O_APPEND);
  if (write(fd, secret, length) < 0) abort();
  mkdir("/tmp/dir", 0700);
  if (chdir("/tmp/dir")) abort();
  umask(077);
  struct sigaction action = {.sa_handler = handler};
  sigaction(SIGUSR1, &action, 0);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  sigprocmask(SIG_BLOCK, &mask, 0);
  stack_t stack = {.ss_sp = heap, .ss_size = kHeap};
  sigaltstack(&stack, 0);
  setenv("LEFT", secret, 1);
  prctl(PR_SET_NAME, "left");
  dup2(1, 10);
  fcntl(0, F_SETFL, O_NONBLOCK);
  fcntl(1, F_SETFD, FD_CLOEXEC);
  syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456);
}

// Leaves without touching the registers that it fills.
static void leave(const char* secret) {
  static uint8_t pattern[32];
  for (int i = 0; i < 32; i++) pattern[i] = (uint8_t)secret[i % strlen(secret)];
  uint32_t mxcsr = 0x7f80;
  uint16_t control = 0x0c7f;
  __asm__ volatile("ldmxcsr %0\n fldcw %1\n fldpi\n fldpi" ::"m"(mxcsr), "m"(control));
  load(pattern);
  __asm__ volatile(
      "xor %%ecx, %%ecx\n mov %%ecx, %%ds\n mov %%ecx, %%es\n mov %%ecx, %%gs\n"
      "pushfq\n orl $0x240400, (%%rsp)\n popfq\n"
      "movabs $0x5345435245545345, %%rbx\n mov %%rbx, %%r12\n mov %%rbx, %%r13\n"
      "mov %%rbx, %%r14\n mov %%rbx, %%r15\n mov %%rbx, %%rbp\n mov %%rbx, %%r8\n"
      "mov $231, %%eax\n xor %%edi, %%edi\n syscall" ::
          : "memory");
}

int main(void) {
  has_avx = __builtin_cpu_supports("avx");
  heap = malloc(kHeap);
  memset(heap, 'h', kHeap);
  char* pages = mmap(0, 5 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  sealed = pages;
  unmapped = pages + 2 * kPage;
  discarded = pages + 4 * kPage;
  memset(sealed, 's', kPage);
  memset(unmapped, 'u', kPage);
  memset(discarded, 'd', kPage);
  mprotect(sealed, kPage, PROT_READ);
  first_free = open("/dev/zero", O_RDONLY);
  close(first_free);
  break_at_start = sbrk(0);
  int fd = open("/tmp/kept", O_CREAT | O_WRONLY, 0600);
  if (write(fd, "kept", 4) != 4) return 2;
  close(fd);

  static uint8_t own[32];
  memset(own, 0x5a, sizeof own);
  static char secret[64];
  long got;
  save(&before);
  memset(before.ymm, 0, sizeof before.ymm);
  for (int i = 0; i < 16; i++) memcpy(before.ymm[i], own, has_avx ? 32 : 16);
  load(own);
  // Nothing but the read between the two looks.
  __asm__ volatile("syscall"
                   : "=a"(got)
                   : "a"(SYS_read), "D"(0), "S"(secret), "d"(sizeof secret - 1)
                   : "rcx", "r11", "memory");
  save(&after);
  if (got <= 0) return 3;

  check_registers();
  check_memory();
  check_stack(secret);
  check_kernel();
  printf("count %d\n%s", counter, report);
  fflush(stdout);
  plant(secret);
  leave(secret);
  return 4;
}
