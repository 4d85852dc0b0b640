// The CUDA backend's table of functions.
#include "backends/cuda/kv.h"
#include "backends/cuda/layout.h"
#include "backends/cuda/plan.h"

using mica::Error;
using mica::Writer;
namespace cuda = mica::cuda;
using cuda::Buffer;
using cuda::Device;

namespace {

// --- Devices ------------------------------------------------------------------------------------

uint32_t device_count(const mica_host*) { return cuda::device_count(cuda::kRuntime); }
mica_status device_info(const mica_host* host, uint32_t i, mica_device_info* out) {
  return cuda::device_info(cuda::kRuntime, host, i, out);
}
mica_status device_open(const mica_host* host, const char* option, mica_b_device** out) {
  return cuda::device_open(cuda::kRuntime, host, option, out);
}

// --- Buffers ------------------------------------------------------------------------------------

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
  *out = nullptr;
  MICA_TRY(cuda::enter(*device));
  const cuda::Driver& driver = *device->driver;
  auto* buffer = mica::create<Buffer>(device->allocator, Buffer{device, 0, bytes});
  if (buffer == nullptr) {
    Error error;
    return device->fail((error.out_of_memory("a buffer"), error));
  }
  void* p = nullptr;
  mica_status status =
      cuda::check(*device, driver.malloc(&p, bytes > 0 ? bytes : 1), "get device memory");
  if (status == MICA_OK)
    status = cuda::check(*device, driver.memset_async(p, 0, bytes, device->stream), "zero memory");
  if (status != MICA_OK) {
    if (p != nullptr) driver.free(p);
    mica::destroy(device->allocator, buffer);
    return status;
  }
  buffer->address = reinterpret_cast<uint64_t>(p);
  *out = static_cast<mica_b_buffer*>(buffer);
  return MICA_OK;
}

void buffer_free(mica_b_buffer* given) {
  Buffer* buffer = given;
  if (buffer == nullptr) return;
  Device& device = *buffer->device;
  device.driver->set_device(device.info.index);
  // Only of what its own thread writes: weights may be freed by the thread of another context.
  if (buffer->waits) cuda::forget(device, buffer->address, buffer->bytes);
  device.driver->free(cuda::pointer(buffer->address));
  device.driver->get_last_error();
  mica::destroy(device.allocator, buffer);
}

void* buffer_map(mica_b_buffer*) { return nullptr; }

mica_status check_range(const Buffer& buffer, uint64_t offset, uint64_t bytes) {
  if (!mica::range_fits(offset, bytes, buffer.bytes)) return MICA_INVALID_ARGUMENT;
  return cuda::enter(*buffer.device);
}

mica_status buffer_write(mica_b_buffer* buffer, uint64_t offset, const void* src, uint64_t bytes) {
  MICA_TRY(check_range(*buffer, offset, bytes));
  buffer->waits = true;
  return cuda::upload(*buffer->device, buffer->address + offset, src, bytes);
}

mica_status buffer_read(mica_b_buffer* buffer, uint64_t offset, void* dst, uint64_t bytes) {
  MICA_TRY(check_range(*buffer, offset, bytes));
  return cuda::download(*buffer->device, dst, buffer->address + offset, bytes);
}

mica_status buffer_copy(mica_b_buffer* dst, uint64_t dst_offset, mica_b_buffer* src,
                        uint64_t src_offset, uint64_t bytes) {
  MICA_TRY(check_range(*dst, dst_offset, bytes));
  MICA_TRY(check_range(*src, src_offset, bytes));
  const uint64_t to = dst->address + dst_offset, from = src->address + src_offset;
  if (bytes == 0 || to == from) return MICA_OK;
  Device& device = *dst->device;
  if (to < from + bytes && from < to + bytes) {
    Error error;
    error.fail(MICA_INVALID_ARGUMENT, "the ranges of a copy overlap");
    return device.fail(error);
  }
  MICA_TRY(cuda::flush(device));
  return cuda::check(device,
                     device.driver->memcpy_async(cuda::pointer(to), cuda::pointer(from), bytes,
                                                 cudaMemcpyDeviceToDevice, device.stream),
                     "copy on the device");
}

// --- Weights and pages --------------------------------------------------------------------------

// What is written must reach the stream: plans of another context may read it, and they see this
// device's stream only.
mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n) {
  buffer->waits = true;
  MICA_TRY(cuda::weight_pack(device, weight, buffer, rows, first, n));
  MICA_TRY(cuda::flush(*device));
  buffer->waits = false;
  return MICA_OK;
}

// --- Compiling ----------------------------------------------------------------------------------

uint32_t args_bytes(mica_b_device*, uint32_t op) { return cuda::args_bytes(op); }

mica_status supports_unit(mica_b_device* device, const mica_b_partition* partition,
                          mica::gpu::UnitRef unit, char* text, size_t capacity) {
  Writer reason(text, capacity);
  mica::gpu::Bound bound;
  const cuda::Kernel* kernel = nullptr;
  return cuda::choose_kernel(*device, *partition, unit, nullptr, bound, &kernel, reason);
}
mica_status supports(mica_b_device* device, const mica_b_partition* partition, uint32_t node,
                     char* reason, size_t capacity) {
  return supports_unit(device, partition, {node, MICA_B_NONE}, reason, capacity);
}
mica_status claims(mica_b_device* device, const mica_b_partition* partition, uint32_t region,
                   char* reason, size_t capacity) {
  return supports_unit(device, partition, {MICA_B_NONE, region}, reason, capacity);
}

// "matmul.q4_0.matvec.sm_90", "softmax.f32.sm_90".
void describe(const Device& device, const cuda::Kernel& kernel, const mica::gpu::Bound& bound,
              Writer& out) {
  const mica::gpu::Call& call = bound.call.n_members > 0 ? bound.members[0] : bound.call;
  const mica_dtype_info* dtype = call.n_in > 0 ? mica_dtype_get(call.in[0].dtype) : nullptr;
  out.put(kernel.name);
  if (dtype != nullptr) out.put(".", dtype->name);
  if (kernel.variant[0] != '\0') out.put(".", kernel.variant);
  out.put(".sm_", device.info.cc);
}

mica_status query(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                  mica_b_need* out) {
  out->workspace_bytes = 0;
  out->numerics = MICA_NUM_EXACT;
  Writer name(out->kernel, sizeof out->kernel);
  char text[200];
  Writer reason(text, sizeof text);
  mica::gpu::Bound bound;
  const cuda::Kernel* kernel = nullptr;
  const mica_b_unit& u = partition->units[unit];
  MICA_TRY(cuda::choose_kernel(*device, *partition, {u.node, u.region}, nullptr, bound, &kernel,
                               reason));
  if (kernel == nullptr) return MICA_OK;
  if (kernel->workspace != nullptr) out->workspace_bytes = kernel->workspace(bound.call);
  if (kernel->numerics != nullptr) out->numerics = kernel->numerics(bound.call);
  describe(*device, *kernel, bound, name);
  return MICA_OK;
}

const char* variants(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                     uint32_t i) {
  const mica_b_unit& u = partition->units[unit];
  return cuda::variant(*device, *partition, {u.node, u.region}, i);
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  *out = nullptr;
  auto* plan = mica::create<cuda::Plan>(device->allocator, *device, *partition);
  if (plan == nullptr) {
    Error error;
    return device->fail((error.out_of_memory("a plan"), error));
  }
  const mica_status status = plan->compile(buffers);
  if (status == MICA_OK) {
    *out = static_cast<mica_b_plan*>(plan);
  } else {
    mica::destroy(device->allocator, plan);
  }
  return status;
}

mica_status submit(mica_b_plan* plan) { return plan->submit(); }
mica_status wait(mica_b_plan* plan) { return plan->wait(); }

void plan_release(mica_b_plan* given) {
  cuda::Plan* plan = given;
  if (plan == nullptr) return;
  const mica_allocator allocator = plan->device().allocator;
  mica::destroy(allocator, plan);
}

// Opening took the context, local memory included; cuBLASLt's workspace is in the arena. Of a plan,
// what its recordings hold on the device: kNodeBytes a launch, of which a unit has one to four.
// Once, kCodeBytes: kernels' code, loaded when plans are compiled, cuBLASLt's too; the piece that
// packs rows; what rounding buffers to 2 MiB costs. Two plans of 24 matmuls of 2048 rows and of one
// took 8 MiB in all on an H200 (driver 580), with cuBLASLt and without; four times that is kept.
constexpr uint64_t kCodeBytes = uint64_t{32} << 20;
constexpr uint64_t kPlanBytes = uint64_t{1} << 20;
constexpr uint64_t kNodeBytes = 2048;
uint64_t reserve(mica_b_device*, const mica_b_partition* partition) {
  return partition == nullptr ? kCodeBytes : kPlanBytes + 4 * kNodeBytes * partition->n_units;
}

constexpr mica_backend kBackend = {
    sizeof(mica_backend),
    MICA_BACKEND_ABI,
    "cuda",
    device_count,
    device_info,
    device_open,
    cuda::device_close,
    cuda::device_state,
    buffer_create,
    buffer_free,
    nullptr,
    buffer_map,
    buffer_write,
    buffer_read,
    buffer_copy,
    cuda::weight_layout,
    weight_pack,
    cuda::weight_unpack,
    cuda::weight_random,
    cuda::kv_layout,
    cuda::kv_pack,
    cuda::kv_unpack,
    args_bytes,
    supports,
    claims,
    nullptr,
    query,
    compile,
    submit,
    wait,
    plan_release,
    reserve,
    variants,
};

}  // namespace

const mica_backend* mica_backend_cuda(void) { return &kBackend; }
