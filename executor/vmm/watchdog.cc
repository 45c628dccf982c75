#include "executor/vmm/watchdog.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <mutex>

#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace sluice::vmm {
namespace {

// Written by its thread, read by the signal handler on the same thread.
struct ThreadTimer {
  std::atomic<kvm_run*> run{nullptr};
  std::atomic<int64_t> deadline_ns{0};
  std::atomic<int64_t> set_for_ns{0};  // 0: the timer is not running
  timer_t timer{};
  bool created = false;

  void set(int64_t at_ns) {
    itimerspec spec = {};
    spec.it_value.tv_sec = at_ns / 1'000'000'000;
    spec.it_value.tv_nsec = at_ns % 1'000'000'000;
    set_for_ns.store(at_ns, std::memory_order_relaxed);
    timer_settime(timer, TIMER_ABSTIME, &spec, nullptr);
  }
  ~ThreadTimer() {
    run = nullptr;
    if (created) timer_delete(timer);
  }
};

thread_local ThreadTimer thread_timer;

void on_signal(int) {
  int saved = errno;
  ThreadTimer& t = thread_timer;
  t.set_for_ns.store(0, std::memory_order_relaxed);
  if (kvm_run* run = t.run.load(std::memory_order_relaxed); run != nullptr) {
    int64_t deadline = t.deadline_ns.load(std::memory_order_relaxed);
    if (now_ns() >= deadline) {
      *const_cast<volatile __u8*>(&run->immediate_exit) = 1;
    } else {
      t.set(deadline);
    }
  }
  errno = saved;
}

void create_timer(ThreadTimer& t) {
  static std::once_flag installed;
  std::call_once(installed, [] {
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(watchdog_signal(), &action, nullptr) == 0);
  });
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, watchdog_signal());
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = watchdog_signal();
  event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &t.timer) == 0);
  t.created = true;
}

}  // namespace

int watchdog_signal() { return SIGRTMIN + 3; }

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

int64_t thread_cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

int64_t realtime_ns() {
  timespec t;
  clock_gettime(CLOCK_REALTIME_COARSE, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

Watchdog::Watchdog(kvm_run& run, int64_t deadline_ns) : run_(run) {
  ThreadTimer& t = thread_timer;
  if (!t.created) create_timer(t);
  CHECK(t.run.load(std::memory_order_relaxed) == nullptr);
  set(deadline_ns);
}

void Watchdog::set(int64_t deadline_ns) {
  ThreadTimer& t = thread_timer;
  deadline_ns_ = deadline_ns;
  // While `run` is null a signal only notes that the timer has fired.
  t.run.store(nullptr, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  *const_cast<volatile __u8*>(&run_.immediate_exit) = 0;
  t.deadline_ns.store(deadline_ns, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  t.run.store(&run_, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  int64_t set_for = t.set_for_ns.load(std::memory_order_relaxed);
  if (set_for == 0 || set_for > deadline_ns) t.set(deadline_ns);
}

Watchdog::~Watchdog() { thread_timer.run.store(nullptr, std::memory_order_relaxed); }

}  // namespace sluice::vmm
