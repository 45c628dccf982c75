#pragma once

#include <memory>
#include <string>

#include "executor/contract/backend.h"
#include "executor/vmm/kvm.h"

namespace sluice::vmm {

// Runs functions in KVM sandboxes. Its images keep it alive no longer than themselves: it must
// outlive them.
class KvmBackend : public executor::Backend {
 public:
  // Errors: kUnavailable where there is no KVM, with what to do about it.
  static Expected<std::unique_ptr<KvmBackend>> open(const char* kvm_path);

  std::string name() const override;
  Expected<std::shared_ptr<const executor::Image>> load(const executor::Program& program,
                                                        const executor::Limits& limits) override;

 private:
  explicit KvmBackend(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}

  std::unique_ptr<Machine> machine_;
};

// What can be said about a program where nothing can be run. Errors: kInvalid.
Expected<void> check_program(const executor::Program& program, const executor::Limits& limits);

}  // namespace sluice::vmm
