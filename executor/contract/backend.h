#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "executor/contract/call.h"

// What the pool asks of a kind of sandbox. There are two: KVM's (vmm/kvm_backend.h) and jailed
// processes (process/process_backend.h).
namespace sluice::executor {

class Slot;

// One instance of a loaded program: serves calls one after the other, each from the same state.
// Made, used and destroyed on one thread.
class Sandbox {
 public:
  virtual ~Sandbox() = default;

  // `input` is stdin, or an invocation frame where the image speaks the function protocol. Puts
  // everything back before it returns. Only while ready().
  virtual CallResult call(std::span<const uint8_t> input) = 0;
  // False after a call that crashed, overran its time or met a defect: throw it away then.
  virtual bool ready() const = 0;
  // What it takes of the machine's memory between calls, an estimate.
  virtual uint64_t memory_bytes() const = 0;
  // Told once, before the first call: what call() may give away while its program sleeps. Outlives
  // the sandbox. A kind of sandbox that does not know when its program sleeps leaves it at this.
  virtual void use_slot(Slot*) {}
};

// The right to use a CPU, of which there are few. A call has it from its start to its end. One
// whose program waits for nothing but the clock (nanosleep, poll) may give it away meanwhile, so
// that other calls run. Used by the sandbox's thread, during call() only, in pairs. Each costs a
// lock and may cost a change of threads: not worth it for much less than a millisecond.
class Slot {
 public:
  virtual ~Slot() = default;

  virtual void release() = 0;
  // Waits for its turn, but not beyond the call's deadline (CLOCK_MONOTONIC): then it returns all
  // the same, so that the call ends in time.
  virtual void acquire(int64_t deadline_ns) = 0;
};

// A program that has been run up to where it wants its first input. Immutable: threads share it;
// its sandboxes keep it.
class Image {
 public:
  virtual ~Image() = default;

  // Errors: kUnavailable when the system refuses another one.
  virtual Expected<std::unique_ptr<Sandbox>> clone() const = 0;
  virtual bool at_first_read() const = 0;
  // Whether it speaks the function protocol (sdk/PROTOCOL.md): calls are frames then.
  virtual bool speaks_protocol() const = 0;
  virtual const std::string& warning() const = 0;
  virtual uint64_t memory_bytes() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "kvm (hardware)", "kvm (software)", "process".
  virtual std::string name() const = 0;
  // From any thread. Errors: kInvalid when the image or the limits can not be served, kUnavailable
  // when this machine lacks something, kInternal.
  virtual Expected<std::shared_ptr<const Image>> load(const Program& program,
                                                      const Limits& limits) = 0;
};

}  // namespace sluice::executor
