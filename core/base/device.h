// Devices.
#pragma once
#include <atomic>

#include "core/base/context.h"
#include "mica/backend.h"

struct mica_device {
  mica_context* context = nullptr;
  const mica_backend* backend = nullptr;
  mica_b_device* handle = nullptr;
  mica_host host{};
  mica_device_info info{};
  char option[64] = {};
  bool lost = false;  // set by DEVICE_LOST; everything but release is refused from then on
  std::atomic<uint32_t> references{1};

  mica::Error& error() const { return context->error; }
  const mica_allocator& allocator() const { return context->allocator; }
};

namespace mica {
// True when what was made for `a` can be used on `b`.
bool same_device(const mica_device* a, const mica_device* b);

// What the device has free now; 0 when that is unknown or, on the processor, no limit.
uint64_t free_bytes(const mica_device* device);

// A device buffer that frees itself. Empty until create() succeeded.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer o) noexcept {
    swap(o);
    return *this;
  }
  ~Buffer() { reset(); }
  [[nodiscard]] mica_status create(mica_device* device, uint64_t bytes, const char* what);
  void reset();
  mica_b_buffer* handle() const { return handle_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& o) {
    std::swap(device_, o.device_);
    std::swap(handle_, o.handle_);
    std::swap(bytes_, o.bytes_);
  }
  mica_device* device_ = nullptr;  // the owner outlives the buffer
  mica_b_buffer* handle_ = nullptr;
  uint64_t bytes_ = 0;
};

// A partition as a backend compiled it, and what takes its place when all of an allocate succeeds.
struct Compiled {
  mica_b_plan* handle = nullptr;
  mica_b_plan* next = nullptr;
  // Ends with `next` as `handle`, or with what was there; the other one is released.
  void settle(const mica_device& device, bool adopt) {
    if (adopt) std::swap(handle, next);
    if (next != nullptr) device.backend->plan_release(next);
    next = nullptr;
  }
};
}  // namespace mica
