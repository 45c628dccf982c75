#include "executor/vmm/kvm_backend.h"

#include "executor/vmm/sandbox.h"
#include "executor/vmm/snapshot.h"

namespace sluice::vmm {
namespace {

class KvmImage : public executor::Image {
 public:
  KvmImage(const Machine& machine, std::shared_ptr<const Snapshot> snapshot)
      : machine_(machine), snapshot_(std::move(snapshot)) {}

  Expected<std::unique_ptr<executor::Sandbox>> clone() const override {
    auto sandbox = Sandbox::clone(machine_, snapshot_);
    if (!sandbox) return std::unexpected(sandbox.error());
    return std::move(*sandbox);
  }
  bool at_first_read() const override { return snapshot_->at_first_read(); }
  bool speaks_protocol() const override { return snapshot_->speaks_protocol(); }
  const std::string& warning() const override { return snapshot_->warning(); }
  uint64_t memory_bytes() const override { return snapshot_->memory_bytes(); }

 private:
  const Machine& machine_;
  std::shared_ptr<const Snapshot> snapshot_;
};

}  // namespace

Expected<std::unique_ptr<KvmBackend>> KvmBackend::open(const char* kvm_path) {
  auto machine = Machine::open(kvm_path);
  if (!machine) return std::unexpected(machine.error());
  return std::unique_ptr<KvmBackend>(new KvmBackend(std::move(*machine)));
}

std::string KvmBackend::name() const {
  return std::string("kvm (") + flavour_name(machine_->flavour()) + ")";
}

Expected<std::shared_ptr<const executor::Image>> KvmBackend::load(const executor::Program& program,
                                                                  const executor::Limits& limits) {
  auto snapshot = Snapshot::load(*machine_, program, limits);
  if (!snapshot) return std::unexpected(snapshot.error());
  return std::make_shared<const KvmImage>(*machine_, std::move(*snapshot));
}

Expected<void> check_program(const executor::Program& program, const executor::Limits& limits) {
  if (auto checked = check_limits(limits); !checked) return checked;
  auto executable = find_executable(program);
  if (!executable) return std::unexpected(executable.error());
  auto layout = make_layout(executable->image, limits.memory_bytes & ~(kPageBytes - 1));
  if (!layout) return std::unexpected(layout.error());
  return {};
}

}  // namespace sluice::vmm
