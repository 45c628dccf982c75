#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "executor/vmm/address_space.h"
#include "executor/vmm/cow.h"
#include "executor/vmm/files.h"
#include "executor/vmm/outcome.h"
#include "executor/vmm/pipes.h"
#include "executor/vmm/rootfs.h"
#include "executor/vmm/threads.h"
#include "executor/vmm/tmpfs.h"

namespace sluice::vmm {

// What sigaction sets. Signals are never delivered to a handler.
struct Signals {
  struct Action {
    uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
  };
  std::array<Action, 65> actions;  // by number, from 1
};

// A limit that a program has met, to be named should it fail.
struct Refusal {
  Outcome outcome = Outcome::kOk;  // kMemoryLimit or kResourceLimit; kOk: none
  uint64_t amount = 0;             // of memory: bytes asked for
  const char* limit = "";          // of resources: what is limited, and how many there may be
  uint64_t limit_value = 0;
};

// Everything that the host remembers about a program: with its memory and registers, the whole of
// a snapshot. Being one value, it is put back by one assignment, and no part can be forgotten.
struct KernelState {
  Cow<PageMap> memory;
  Cow<FileTable> files;
  Cow<Tmpfs> fs;
  Cow<Signals> signals;
  Cow<Threads> threads;
  Cow<Pipes> pipes;
  Tmpfs::Ino directory = Tmpfs::kRoot;
  uint64_t input_offset = 0;
  uint64_t invocation_offset = 0;
  Refusal refusal;  // the last one
  uint32_t umask = 022;
  std::array<char, 16> thread_name{};

  KernelState(const Limits& limits, std::shared_ptr<const RootFs> rootfs)
      : files(FileTable(limits.open_files)), fs(Tmpfs(limits.tmpfs_bytes, std::move(rootfs))) {}
};

// Where a program waits for its first input: that decides how it is called.
enum class InputSource : uint8_t {
  kStdin,
  kInvocation,  // the descriptor of the function protocol (sdk/PROTOCOL.md)
};

// The descriptor that SLUICE_FD names.
inline constexpr int kInvocationFd = 3;

// One call's input and what it has printed so far.
struct CallIo {
  std::optional<std::span<const uint8_t>> input;  // not there while a program initialises
  InputSource source = InputSource::kStdin;       // what `input` is for; the other one is empty
  int64_t deadline_realtime_ns = 0;               // for the invocation
  std::string output;                             // stdout, or the answer
  std::string log;
  bool log_cut = false;
};

// The host's side of a program: serves its system calls from the allow-list in syscalls.cc. Every
// argument is hostile: addresses go through AddressSpace, what they point to is copied once and the
// copy is used, sizes are bounded by limits.h. Owned by its sandbox's thread.
class Kernel {
 public:
  enum class Step {
    kReturn,      // to the program, with result()
    kEnded,       // ending() says how
    kNeedsInput,  // nothing was done: the call wants input, and there is none yet
    kWaits,       // the thread waits, has yielded or has ended: another one's turn
  };

  Kernel(std::string name, const Limits& limits, AddressSpace& space,
         std::shared_ptr<const RootFs> rootfs);

  // Serves one call. `deadline_ns` bounds what waits and what is long.
  Step serve(const Syscall& call, int64_t deadline_ns);
  // After kNeedsInput.
  InputSource wanted_input() const { return wanted_input_; }
  int64_t result() const { return result_; }
  const Ending& ending() const { return *ending_; }
  // Set by arch_prctl(ARCH_SET_FS or _GS): the caller puts it into the vCPU.
  std::optional<uint64_t> take_fs_base() { return std::exchange(fs_base_, std::nullopt); }
  std::optional<uint64_t> take_gs_base() { return std::exchange(gs_base_, std::nullopt); }
  // Set by clone(): the thread's number, its stack pointer and, if given, its FS base. The caller
  // fills in its registers.
  struct NewThread {
    uint32_t id;
    uint64_t stack;
    std::optional<uint64_t> fs_base;
  };
  std::optional<NewThread> take_new_thread() { return std::exchange(new_thread_, std::nullopt); }
  // Whether address space was asked for, without access, that was not to be had.
  bool refused_reservation() const { return refused_reservation_; }
  const Threads& threads() const { return *state_.threads; }
  Threads& edit_threads() { return state_.threads.edit(); }
  void set_segment_bases(uint64_t fs, uint64_t gs);

  // State as it is now, and as it shall be. restore() also forgets the last call's ending.
  KernelState capture() const;
  void restore(const KernelState& state, CallIo io);
  CallIo& io() { return io_; }
  // What was printed on stdout so far is log: the program turned out to speak the protocol.
  void take_output_as_log();
  const KernelState& state() const { return state_; }

  // An ending by something other than a system call, with the memory limit blamed where it was hit.
  Ending end_by(Outcome outcome, int exit_status, std::string message) const;

 private:
  friend struct SyscallTable;
  using Handler = int64_t (Kernel::*)(const Syscall&);

  // sys_io.cc
  int64_t sys_read(const Syscall&);
  int64_t sys_readv(const Syscall&);
  int64_t sys_pread64(const Syscall&);
  int64_t sys_write(const Syscall&);
  int64_t sys_writev(const Syscall&);
  int64_t sys_pwrite64(const Syscall&);
  int64_t sys_lseek(const Syscall&);
  int64_t sys_poll(const Syscall&);
  int64_t sys_ppoll(const Syscall&);
  int64_t sys_select(const Syscall&);
  int64_t sys_pselect6(const Syscall&);
  int64_t sys_ioctl(const Syscall&);
  int64_t sys_ftruncate(const Syscall&);
  // sys_files.cc
  int64_t sys_open(const Syscall&);
  int64_t sys_openat(const Syscall&);
  int64_t sys_creat(const Syscall&);
  int64_t sys_close(const Syscall&);
  int64_t sys_close_range(const Syscall&);
  int64_t sys_dup(const Syscall&);
  int64_t sys_dup2(const Syscall&);
  int64_t sys_dup3(const Syscall&);
  int64_t sys_fcntl(const Syscall&);
  int64_t sys_stat(const Syscall&);
  int64_t sys_lstat(const Syscall&);
  int64_t sys_fstat(const Syscall&);
  int64_t sys_newfstatat(const Syscall&);
  int64_t sys_statx(const Syscall&);
  int64_t sys_access(const Syscall&);
  int64_t sys_faccessat(const Syscall&);
  int64_t sys_readlink(const Syscall&);
  int64_t sys_readlinkat(const Syscall&);
  // sys_directories.cc
  int64_t sys_getcwd(const Syscall&);
  int64_t sys_chdir(const Syscall&);
  int64_t sys_fchdir(const Syscall&);
  int64_t sys_mkdir(const Syscall&);
  int64_t sys_mkdirat(const Syscall&);
  int64_t sys_rmdir(const Syscall&);
  int64_t sys_unlink(const Syscall&);
  int64_t sys_unlinkat(const Syscall&);
  int64_t sys_rename(const Syscall&);
  int64_t sys_renameat(const Syscall&);
  int64_t sys_truncate(const Syscall&);
  int64_t sys_chmod(const Syscall&);
  int64_t sys_fchmod(const Syscall&);
  int64_t sys_fchmodat(const Syscall&);
  int64_t sys_getdents64(const Syscall&);
  int64_t sys_symlink(const Syscall&);
  int64_t sys_symlinkat(const Syscall&);
  int64_t sys_umask(const Syscall&);
  // sys_memory.cc
  int64_t sys_brk(const Syscall&);
  int64_t sys_mmap(const Syscall&);
  int64_t sys_munmap(const Syscall&);
  int64_t sys_mprotect(const Syscall&);
  int64_t sys_mremap(const Syscall&);
  int64_t sys_madvise(const Syscall&);
  // sys_process.cc
  int64_t sys_exit(const Syscall&);
  int64_t sys_kill(const Syscall&);
  int64_t sys_tkill(const Syscall&);
  int64_t sys_tgkill(const Syscall&);
  int64_t sys_arch_prctl(const Syscall&);
  int64_t sys_prctl(const Syscall&);
  int64_t sys_rt_sigaction(const Syscall&);
  int64_t sys_rt_sigprocmask(const Syscall&);
  int64_t sys_sigaltstack(const Syscall&);
  int64_t sys_prlimit64(const Syscall&);
  int64_t sys_getrlimit(const Syscall&);
  int64_t sys_uname(const Syscall&);
  int64_t sys_sysinfo(const Syscall&);
  int64_t sys_sched_getaffinity(const Syscall&);
  int64_t sys_getcpu(const Syscall&);
  int64_t sys_getresid(const Syscall&);
  int64_t sys_getgroups(const Syscall&);
  int64_t sys_getrandom(const Syscall&);
  int64_t return_zero(const Syscall&);
  int64_t return_one(const Syscall&);
  // sys_threads.cc
  int64_t sys_clone(const Syscall&);
  int64_t sys_exit_thread(const Syscall&);
  int64_t sys_gettid(const Syscall&);
  int64_t sys_set_tid_address(const Syscall&);
  int64_t sys_sched_yield(const Syscall&);
  int64_t sys_futex(const Syscall&);
  // sys_time.cc
  int64_t sys_clock_gettime(const Syscall&);
  int64_t sys_clock_getres(const Syscall&);
  int64_t sys_gettimeofday(const Syscall&);
  int64_t sys_time(const Syscall&);
  int64_t sys_times(const Syscall&);
  int64_t sys_getrusage(const Syscall&);
  int64_t sys_nanosleep(const Syscall&);
  int64_t sys_clock_nanosleep(const Syscall&);

  // sys_pipes.cc
  int64_t sys_pipe2(const Syscall&);
  int64_t sys_eventfd2(const Syscall&);
  int64_t sys_epoll_create1(const Syscall&);
  int64_t sys_epoll_ctl(const Syscall&);
  int64_t sys_epoll_wait(const Syscall&);

  struct Iovec {
    uint64_t address, bytes;
  };

  // The present call waits until a pipe or the like has changed, and is served again.
  int64_t wait_for_change(std::optional<int64_t> until_ns, int64_t late_result);
  int64_t stop_waiting(int64_t total);
  void changed();
  int64_t add_descriptor(Tmpfs::Kind kind, uint32_t number, int flags, uint64_t options);
  void close_channel(const FileTable::Description& d);
  uint32_t readiness(const FileTable::Description& d) const;
  int64_t read_channel(const FileTable::Description& d, uint64_t address, uint64_t bytes);
  int64_t write_channel(const FileTable::Description& d, std::string_view bytes);
  // Asks for input: the handler returns at once and its result is not used.
  bool lacks_input(InputSource source);
  // This call's stdin or invocation; empty where the call has the other one.
  std::span<const uint8_t> input_of(InputSource source) const;
  int64_t read_into(uint64_t fd, uint64_t address, uint64_t bytes, std::optional<uint64_t> offset);
  int64_t write_from(uint64_t fd, uint64_t address, uint64_t bytes, std::optional<uint64_t> offset);
  int64_t read_input(uint64_t address, uint64_t bytes, std::optional<uint64_t> offset);
  int64_t write_output(std::string_view bytes);
  void write_log(std::string_view bytes);
  // sys_invocation.cc
  int64_t read_invocation(uint64_t address, uint64_t bytes);
  int64_t write_answer(std::string_view bytes);
  void end_by_bad_answer(std::string message);
  int64_t get_iovecs(uint64_t address, uint64_t count, std::array<Iovec, kIovecsMax>& iovecs) const;
  int64_t get_wait(uint64_t address, std::optional<int64_t>& wait_ns) const;
  int64_t select_descriptors(const Syscall& c, std::optional<int64_t> wait_ns);
  int64_t poll_descriptors(uint64_t address, uint64_t count, std::optional<int64_t> wait_ns);

  std::optional<std::string> path_at(uint64_t address) const;
  // Resolves `path` from the working directory or the open directory `dirfd`.
  int64_t find_at(uint64_t dirfd, const std::string& path, bool follow, Tmpfs::Found& found) const;
  int64_t open_at(uint64_t dirfd, uint64_t path, uint64_t flags, uint64_t mode);
  int64_t open_found(Tmpfs::Found& found, int flags, uint32_t mode);
  int64_t stat_at(uint64_t dirfd, uint64_t path, uint64_t flags, struct stat& out) const;
  void stat_node(Tmpfs::Kind kind, Tmpfs::Ino node, struct stat& out) const;
  int64_t put_stat(uint64_t address, const struct stat& from);
  int64_t readlink_at(uint64_t dirfd, uint64_t path, uint64_t address, uint64_t bytes);
  int64_t make_directory(uint64_t dirfd, uint64_t path, uint64_t mode);
  int64_t make_symlink(uint64_t target, uint64_t dirfd, uint64_t path);
  int64_t remove(uint64_t dirfd, uint64_t path, bool directory);
  int64_t rename_at(uint64_t from_fd, uint64_t from, uint64_t to_fd, uint64_t to);
  int64_t change_mode(uint64_t dirfd, uint64_t path, uint64_t mode);
  int64_t close_fd(uint64_t fd);
  void set_directory(Tmpfs::Ino node);

  int64_t refuse_memory(uint64_t bytes);
  // Remembers that `limit` was met where `error` is what the program is told then.
  int64_t refuse(int64_t error, const char* limit, uint64_t limit_value);
  void end_process(int status);
  int64_t futex_wait(const Syscall& c, uint64_t operation);
  int64_t raise(uint64_t signal);
  // Lets the thread wait until then, for what is not there before. `late_result` is what its call
  // returns.
  int64_t wait_until(int64_t at_ns, int64_t late_result);
  // A struct timespec, as a time to wake at.
  int64_t get_wake_time(uint64_t address, int clock, bool absolute, int64_t& at_ns) const;
  int64_t sleep_for(uint64_t request, int clock, bool absolute);

  std::string name_;
  Limits limits_;
  AddressSpace& space_;
  KernelState state_;
  CallIo io_;
  int64_t deadline_ns_ = 0;
  int64_t result_ = 0;
  Syscall call_{};
  bool needs_input_ = false;
  bool waits_ = false;
  bool refused_reservation_ = false;
  std::optional<NewThread> new_thread_;
  InputSource wanted_input_ = InputSource::kStdin;
  std::optional<Ending> ending_;
  std::optional<uint64_t> fs_base_, gs_base_;
  uint64_t fs_now_ = 0, gs_now_ = 0;
};

}  // namespace sluice::vmm
