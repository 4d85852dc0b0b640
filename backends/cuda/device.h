// The CUDA backend's device and buffers, and how bytes get to the device and back.
#pragma once
#include "backends/cuda/cublaslt.h"
#include "backends/cuda/kernel.h"
#include "core/base/text.h"

namespace mica::cuda {

// Pinned memory in equal slots that are used in turn: while the device reads one, the host fills
// the next.
class Ring {
 public:
  static constexpr uint32_t kSlots = 4;
  static constexpr uint64_t kSmallSlot = 64 << 10;
  static constexpr uint64_t kLargeSlot = 1 << 20;  // hides what a copy costs to start
  cudaError_t open(const Driver& driver, uint64_t slot_bytes);
  void close(const Driver& driver);
  bool is_open() const { return base_ != nullptr; }
  uint64_t slot_bytes() const { return slot_bytes_; }
  char* slot(uint32_t i) const { return base_ + i * slot_bytes_; }
  cudaEvent_t event(uint32_t i) const { return events_[i]; }  // the device is done with the slot
  uint32_t take() { return next_++ % kSlots; }

 private:
  char* base_ = nullptr;
  uint64_t slot_bytes_ = 0;
  cudaEvent_t events_[kSlots] = {};
  uint32_t next_ = 0;
};

struct Device {
  Device(const mica_host& h, const Driver& d) : host(h), allocator(*h.allocator), driver(&d) {}

  mica_host host;
  mica_allocator allocator;
  const Driver* driver;
  DeviceInfo info{};
  mica_device_info described{};
  // Of gpu::work_of, as much as a part of a step may hold (plan.h).
  double part_work = 0;
  cudaStream_t stream = nullptr;  // everything runs here, in order
  Ring small;                     // mailboxes, and small reads
  Ring large;                     // opened by the first transfer or plan that wants it
  uint32_t mailbox = UINT32_MAX;  // slot of `small` that gathers writes now; UINT32_MAX: none
  uint32_t mailbox_bytes = 0;     // of it, in use
  CublasLt lt;                    // info.lt points here
  uint64_t scratch = 0, scratch_bytes = 0;  // device memory for packing; lives as long as this
  bool lost = false;
  char lost_text[200] = {};

  mica_status fail(const Error& error) const {
    if (host.set_error != nullptr) host.set_error(host.user, error.code(), error.text());
    return error.code();
  }
  bool cancelled() const {
    return host.cancel != nullptr && __atomic_load_n(host.cancel, __ATOMIC_RELAXED) != 0;
  }
};

struct Buffer {
  Device* device;
  uint64_t address;  // on the device
  uint64_t bytes;
  bool waits = false;  // small writes to it may wait in the mailbox
};

}  // namespace mica::cuda

// The boundary's names for them. Other backends of the library give these names to other types: so
// they have no functions, and no template is made of them.
struct mica_b_device : mica::cuda::Device {};
struct mica_b_buffer : mica::cuda::Buffer {};

namespace mica::cuda {

inline void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

// Turns an answer of the runtime into a status with a text for the caller; `doing` completes "CUDA
// failed to …". Faults that outlive a call poison the device.
[[nodiscard]] mica_status check(Device& device, cudaError_t error, const char* doing);
// To be called at the beginning of each entry: makes the device this thread's, refuses a lost one.
[[nodiscard]] mica_status enter(Device& device);

// Host bytes to a device address, in the stream's order; `src` is free on return.
[[nodiscard]] mica_status upload(Device& device, uint64_t dst, const void* src, uint64_t bytes);
// Waits for everything submitted, then fetches.
[[nodiscard]] mica_status download(Device& device, void* dst, uint64_t src, uint64_t bytes);
// Makes the small writes that wait so far part of the stream. To be called before anything else is
// put there.
[[nodiscard]] mica_status flush(Device& device);
// Drops the small writes that wait for these bytes, which are about to be freed.
void forget(Device& device, uint64_t address, uint64_t bytes);
// Waits for an event. `out_cancelled`, when not nullptr, gets true when the caller's cancel flag
// was seen meanwhile; the wait still lasts until the device is done.
[[nodiscard]] mica_status await(Device& device, cudaEvent_t event, bool* out_cancelled);
// Waits for all that the stream holds.
[[nodiscard]] mica_status drain(Device& device);
// At least `bytes` of device memory for a kernel outside of plans (packing rows). It is one piece
// for all: contents last until the next use, which the stream orders behind this one.
[[nodiscard]] mica_status scratch(Device& device, uint64_t bytes, uint64_t* out_address);

// For launch() outside of plans: what it launches runs at once, in the stream's order. Afterwards
// check(device, r.error, "…").
inline Recorder direct(Device& device) {
  return {device.stream, &device.info, cudaSuccess, device.driver, false, true, true};
}

[[nodiscard]] mica_status open_large(Device& device);

void device_close(mica_b_device* device);
mica_status device_state(mica_b_device* device, mica_device_info* out_info);
// The functions of mica_backend that come before there is a device: unit tests give them a driver
// of their own.
uint32_t device_count(const Driver& driver);
mica_status device_info(const Driver& driver, const mica_host* host, uint32_t i,
                        mica_device_info* out_info);
mica_status device_open(const Driver& driver, const mica_host* host, const char* option,
                        mica_b_device** out_device);

}  // namespace mica::cuda
