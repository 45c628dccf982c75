// One way to misbehave for each argument. Everything happens after the first read, unless the
// second argument is "early".
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int sink;

__attribute__((noinline)) static int recurse(int depth) {
  volatile char room[4096];
  room[0] = (char)depth;
  return recurse(depth + 1) + room[0];
}

static void* touch(void* at, size_t bytes) {
  for (size_t i = 0; at && i < bytes; i += 4096) ((volatile char*)at)[i] = 1;
  return at;
}

static void stubs(const char* how) {
  // A jump into the VMM's stub for system calls, as if `syscall` had led there.
  uint64_t stub = 0x7fffc0004000, back = 0xdeadbeef0000;
  if (!strcmp(how, "stub-bad-return")) back = 0x8000000000000000;
  __asm__ volatile("mov %1, %%rcx\n mov $39, %%eax\n jmp *%0" ::"r"(stub), "r"(back)
                   : "rcx", "rax", "r11", "memory");
}

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "";
  char buffer[64];
  if (argc < 3 || strcmp(argv[2], "early")) {
    if (read(0, buffer, sizeof buffer) < 0) return 99;
  }
  if (!strcmp(how, "exit")) return 7;
  if (!strcmp(how, "abort")) abort();
  if (!strcmp(how, "raise")) raise(SIGTERM);
  if (!strcmp(how, "loop"))
    for (;;) sink++;
  if (!strcmp(how, "syscall-loop"))
    for (;;) syscall(SYS_getppid);
  if (!strcmp(how, "sleep"))
    for (;;) sleep(1000);
  if (!strcmp(how, "wait")) select(0, 0, 0, 0, 0);
  if (!strcmp(how, "null")) *(volatile int*)0 = 1;
  if (!strcmp(how, "null-read")) sink = *(volatile int*)8;
  if (!strcmp(how, "null-call")) ((void (*)(void))0)();
  if (!strcmp(how, "ud2")) __asm__ volatile("ud2");
  if (!strcmp(how, "divide"))
    __asm__ volatile("xor %%ecx, %%ecx\n mov $1, %%eax\n cdq\n idiv %%ecx" ::: "eax", "ecx", "edx");
  if (!strcmp(how, "int3")) __asm__ volatile("int3");
  if (!strcmp(how, "int14")) __asm__ volatile("int $14");
  if (!strcmp(how, "int80")) __asm__ volatile("int $0x80" ::"a"(1));
  if (!strcmp(how, "hlt")) __asm__ volatile("hlt");
  if (!strcmp(how, "cli")) __asm__ volatile("cli\n hlt");
  if (!strcmp(how, "in")) __asm__ volatile("inb $0x60, %%al" ::: "al");
  if (!strcmp(how, "out-exception")) __asm__ volatile("outb %%al, $0x8e" ::: "memory");
  if (!strcmp(how, "out-other")) __asm__ volatile("mov $0x3f8, %%edx\n outb %%al, %%dx" ::: "edx");
  if (!strcmp(how, "out-syscall")) {
    // The stub's own port, from elsewhere.
    __asm__ volatile("mov $39, %%eax\n outb %%al, $0x01" ::: "rax", "memory");
  }
  if (!strcmp(how, "outs")) {
    __asm__ volatile("mov $1, %%edx\n mov %0, %%rsi\n mov $8, %%ecx\n rep outsb" ::"r"(buffer)
                     : "rdx", "rsi", "rcx");
  }
  if (!strncmp(how, "stub", 4)) stubs(how);
  if (!strcmp(how, "kernel-read")) sink = *(volatile int*)0x7fffc0001000;
  if (!strcmp(how, "kernel-stack")) {
    // Exceptions must not be delivered onto a stack that the program chose.
    __asm__ volatile("mov $0x7fffc0007000, %%rsp\n ud2" ::: "memory");
  }
  if (!strcmp(how, "bad-stack")) __asm__ volatile("mov $0x10, %%rsp\n push %%rax" ::: "memory");
  if (!strcmp(how, "noncanonical")) sink = *(volatile int*)0x8000000000000000;
  if (!strcmp(how, "single-step"))
    __asm__ volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n nop" ::: "memory");
  if (!strcmp(how, "single-step-syscall")) {
    __asm__ volatile("mov $39, %%eax\n pushfq\n orl $0x100, (%%rsp)\n popfq\n syscall" ::
                         : "rax", "rcx", "r11", "memory");
  }
  if (!strcmp(how, "nested-task")) {
    __asm__ volatile("pushfq\n orl $0x4000, (%%rsp)\n popfq\n iretq" ::: "memory");
  }
  if (!strcmp(how, "write-code")) *(volatile char*)(uintptr_t)main = 0x90;
  if (!strcmp(how, "execute-data")) {
    static char code[] = {(char)0xc3};
    ((void (*)(void))(uintptr_t)code)();
  }
  if (!strcmp(how, "rdmsr"))
    __asm__ volatile("mov $0xc0000082, %%ecx\n rdmsr" ::: "eax", "ecx", "edx");
  if (!strcmp(how, "stack")) return recurse(0);
  if (!strcmp(how, "ptrace")) return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
  // There is no network, and a program that looks for one is told so.
  if (!strcmp(how, "socket")) return socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0;
  if (!strcmp(how, "fork")) return fork();
  if (!strcmp(how, "exec")) return execl("/bin/sh", "sh", (char*)0);
  if (!strcmp(how, "unknown-syscall")) return (int)syscall(99999, 1, 2, 3);
  if (!strcmp(how, "hog")) {
    for (;;) {
      if (!touch(malloc(1 << 20), 1 << 20)) abort();
    }
  }
  if (!strcmp(how, "hog-quietly")) {
    while (touch(malloc(1 << 20), 1 << 20)) {
    }
    return write(1, "full", 4) != 4;
  }
  if (!strcmp(how, "hog-mmap")) {
    for (;;) {
      void* at = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) return 3;
      touch(at, 1 << 20);
    }
  }
  if (!strcmp(how, "flood-stdout") || !strcmp(how, "flood-stderr")) {
    int fd = !strcmp(how, "flood-stdout") ? 1 : 2;
    static char text[65536];
    memset(text, 'x', sizeof text);
    for (int i = 0; i < 1000; i++) {
      if (write(fd, text, sizeof text) < 0) return 1;
    }
  }
  if (!strcmp(how, "huge-madvise")) {
    // The whole of the address space again and again: each must end in time.
    for (;;) {
      madvise((void*)0x400000, 1ull << 46, MADV_DONTNEED);
      void* at = mmap(0, 32 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (int i = 0; i < 64; i++) madvise(at, 32 << 20, MADV_DONTNEED);
      munmap(at, 32 << 20);
    }
  }
  if (!strcmp(how, "use-after-unmap") || !strcmp(how, "write-after-protect")) {
    char* at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touch(at, 4096);
    if (!strcmp(how, "use-after-unmap")) {
      munmap(at, 4096);
      sink = *(volatile char*)at;
    } else {
      mprotect(at, 4096, PROT_READ);
      *(volatile char*)at = 2;
    }
  }
  if (!strcmp(how, "stale")) {
    // One call maps a page and leaves it; another uses the address without mapping it.
    char* at = (char*)0x2000000;
    if (buffer[0] == 'm') {
      at = mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      touch(at, 4096);
    } else {
      sink = *(volatile char*)at;
    }
  }
  if (!strcmp(how, "huge-write")) {
    // More than there is: refused, or cut, but never read beyond the end.
    if (write(1, buffer, 1ull << 62) >= 0) return 1;
    if (write(1, (void*)0x7fffc0001000, 16) >= 0) return 2;
    if (read(0, (void*)0xffffffff80000000, 16) > 0) return 3;
    struct {
      void* at;
      uint64_t bytes;
    } parts[2] = {{buffer, 4}, {(void*)-4096, 1ull << 63}};
    if (syscall(SYS_writev, 1, parts, 2) != 4) return 4;
    if (syscall(SYS_writev, 1, parts, 1ull << 60) >= 0) return 5;
    if (syscall(SYS_poll, buffer, 1ull << 60, 0) >= 0) return 6;
  }
  return 0;
}
