// The shared object that the VMM maps into every program beside its stubs: clocks that cost no
// exit. It is found as Linux's own vDSO is (AT_SYSINFO_EHDR, version LINUX_2.6), so C libraries and
// Go use it by themselves. What it can not tell from the clock page it asks by system call.
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#include "executor/vdso/clock_page.h"

struct timeval_ {
  int64_t seconds, microseconds;
};
struct timezone_ {
  int32_t minutes_west, dst_time;
};

static const volatile struct ClockPage* clock_page(void) {
  return (const volatile struct ClockPage*)(uintptr_t)SLUICE_CLOCK_PAGE;
}

static int64_t call_system(int64_t number, int64_t a, int64_t b) {
  int64_t result;
  __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
  return result;
}

static uint64_t read_tsc(void) {
  uint32_t low, high;
  __asm__ volatile("lfence\n rdtsc" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t)high << 32 | low;
}

// Nanoseconds since the clock's zero, or -1 where the page does not know. The host changes the page
// only while the program is stopped, also in the middle of this.
static int64_t now(int clock) {
  const volatile struct ClockPage* page = clock_page();
  for (;;) {
    uint32_t sequence = page->sequence;
    if (!page->usable) return -1;
    int64_t base = clock == CLOCK_REALTIME ? page->realtime_ns : page->monotonic_ns;
    uint64_t from = page->tsc, mult = page->ns_per_tick_32;
    uint64_t tsc = read_tsc();
    if (page->sequence != sequence) continue;
    uint64_t ticks = tsc > from ? tsc - from : 0;
    return base + (int64_t)((unsigned __int128)ticks * mult >> 32);
  }
}

int __vdso_clock_gettime(clockid_t clock, struct timespec* to) {
  int64_t ns = -1;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) ns = now(CLOCK_REALTIME);
  if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME) {
    ns = now(CLOCK_MONOTONIC);
  }
  if (ns < 0) return (int)call_system(SYS_clock_gettime, clock, (int64_t)to);
  to->tv_sec = ns / 1000000000;
  to->tv_nsec = ns % 1000000000;
  return 0;
}

int __vdso_gettimeofday(struct timeval_* to, struct timezone_* zone) {
  int64_t ns = now(CLOCK_REALTIME);
  if (ns < 0) return (int)call_system(SYS_gettimeofday, (int64_t)to, (int64_t)zone);
  if (to != NULL) {
    to->seconds = ns / 1000000000;
    to->microseconds = ns % 1000000000 / 1000;
  }
  if (zone != NULL) zone->minutes_west = zone->dst_time = 0;
  return 0;
}

time_t __vdso_time(time_t* to) {
  int64_t ns = now(CLOCK_REALTIME);
  if (ns < 0) return call_system(SYS_time, (int64_t)to, 0);
  if (to != NULL) *to = ns / 1000000000;
  return ns / 1000000000;
}

int __vdso_getcpu(unsigned* cpu, unsigned* node, void* unused) {
  (void)unused;
  if (cpu != NULL) *cpu = 0;
  if (node != NULL) *node = 0;
  return 0;
}
