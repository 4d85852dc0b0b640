// A compiled partition: one CUDA graph, instantiated once and launched for every step.
#pragma once
#include "backends/cuda/device.h"

namespace mica::cuda {


// Binds a unit and chooses its kernel; `out_kernel` is nullptr for views. `bases` as in gpu::bind.
mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& out,
                          const Kernel** out_kernel, Writer& reason);

class Plan {
 public:
  Plan(Device& d, const mica_b_partition& p) : device_(d), partition_(p) {}
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  mica_status compile(mica_b_buffer* const* buffers);
  mica_status submit();
  // A cancelled step is waited for like any other: what is left of it bounds the delay.
  mica_status wait();
  Device& device() const { return device_; }

 private:
  mica_status record(const uint64_t* bases, bool preparing);
  mica_status capture(const uint64_t* bases);

  Device& device_;
  const mica_b_partition& partition_;
  cudaGraphExec_t exec_ = nullptr;
  cudaEvent_t done_ = nullptr;
  bool in_flight_ = false;
};

}  // namespace mica::cuda

struct mica_b_plan : mica::cuda::Plan {};  // as in device.h
