// A compiled partition: CUDA graphs, instantiated once and launched for every step. Mostly it is
// one; where the caller can cancel, long work is cut into several, and those that are not launched
// yet when that is seen never are.
#pragma once
#include "backends/cancellable.h"
#include "backends/cuda/device.h"

namespace mica::cuda {

// Binds a unit and chooses its kernel; `out_kernel` is nullptr for views. `bases` as in gpu::bind.
mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& out,
                          const Kernel** out_kernel, Writer& reason);

// How many bytes of an op's args its kernels know; MICA_B_NONE where there are no kernels.
uint32_t args_bytes(uint32_t op);
// The backend's variants.
const char* variant(const Device& device, const mica_b_partition& partition, gpu::UnitRef unit,
                    uint32_t i);

class Plan {
 public:
  Plan(Device& d, const mica_b_partition& p)
      : device_(d), partition_(p), is_cancellable_(mica::is_cancellable(p)), parts_(d.allocator) {}
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  mica_status compile(mica_b_buffer* const* buffers);
  // Launches the first parts; the others follow in wait(), as the device gets on.
  mica_status submit();
  // What is launched cannot be stopped: a cancelled step is waited for, but no part is begun then.
  mica_status wait();
  Device& device() const { return device_; }
  size_t n_parts() const { return parts_.size(); }

 private:
  struct Part {
    cudaGraphExec_t exec;
    cudaEvent_t done;
  };
  struct Range {
    uint32_t first, end;  // units
  };
  Range next_part(uint32_t first) const;
  mica_status record(const uint64_t* bases, Range units, bool preparing);
  mica_status capture(const uint64_t* bases, Range units);
  mica_status launch_next();
  mica_status launch_rest(bool& cancelled);
  bool* flag_of(bool& cancelled) const { return is_cancellable_ ? &cancelled : nullptr; }
  void settle();

  Device& device_;
  const mica_b_partition& partition_;
  const bool is_cancellable_;
  Vec<Part> parts_;
  size_t next_ = 0;  // the part to be launched
  bool in_flight_ = false;
};

}  // namespace mica::cuda

struct mica_b_plan : mica::cuda::Plan {};  // as in device.h
