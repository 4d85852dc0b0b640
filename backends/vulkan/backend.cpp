// The Vulkan backend's table of functions.
#include "mica/backend.h"

#include "backends/vulkan/kv.h"
#include "backends/vulkan/layout.h"
#include "backends/vulkan/plan.h"
#include "backends/vulkan/registry.h"

using mica::Error;
using mica::Writer;
namespace gpu = mica::gpu;
namespace vulkan = mica::vulkan;

namespace {

uint32_t device_count(const mica_host* host) { return vulkan::count_devices(*host); }

mica_status device_info(const mica_host* host, uint32_t i, mica_device_info* out) {
  return vulkan::describe_device(*host, i, out);
}

mica_status device_open(const mica_host* host, const char* option, mica_b_device** out) {
  return vulkan::open_device(*host, option, nullptr, out);
}

uint32_t args_bytes(mica_b_device*, uint32_t op) { return vulkan::args_bytes(op); }

mica_status choose(mica_b_device* device, const mica_b_partition* partition, gpu::UnitRef unit,
                   char* reason, size_t capacity) {
  Writer why(reason, capacity);
  gpu::Bound bound;
  const vulkan::Kernel* kernel = nullptr;
  return vulkan::choose_kernel(vulkan::of(device), *partition, unit, nullptr, bound, &kernel, why);
}

mica_status supports(mica_b_device* device, const mica_b_partition* partition, uint32_t node,
                     char* reason, size_t capacity) {
  return choose(device, partition, {node, MICA_B_NONE}, reason, capacity);
}

mica_status claims(mica_b_device* device, const mica_b_partition* partition, uint32_t region,
                   char* reason, size_t capacity) {
  return choose(device, partition, {MICA_B_NONE, region}, reason, capacity);
}

// "matmul.q4_0.vec", "softmax.f32".
void describe(const gpu::Bound& bound, const vulkan::Kernel& kernel, Writer& out) {
  const gpu::Call& call = bound.call.n_members > 0 ? bound.members[0] : bound.call;
  const mica_dtype_info* dtype = call.n_in > 0 ? mica_dtype_get(call.in[0].dtype) : nullptr;
  out.put(kernel.name);
  if (dtype != nullptr) out.put(".", dtype->name);
  if (kernel.variant[0] != '\0') out.put(".", kernel.variant);
}

mica_status query(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                  mica_b_need* out) {
  out->workspace_bytes = 0;
  out->numerics = MICA_NUM_EXACT;
  Writer text(out->kernel, sizeof out->kernel);
  char why[200];
  Writer reason(why, sizeof why);
  gpu::Bound bound;
  const vulkan::Kernel* kernel = nullptr;
  const mica_b_unit& u = partition->units[unit];
  const mica_status status = vulkan::choose_kernel(
      vulkan::of(device), *partition, {u.node, u.region}, nullptr, bound, &kernel, reason);
  if (status != MICA_OK || kernel == nullptr) return status;
  if (kernel->workspace != nullptr) out->workspace_bytes = kernel->workspace(bound.call);
  if (kernel->numerics != nullptr) out->numerics = kernel->numerics(bound.call);
  describe(bound, *kernel, text);
  return MICA_OK;
}

// Sessions of other contexts use the weights: what is written must not wait for this one's next
// step.
mica_status complete(mica_b_device* device, mica_status status) {
  vulkan::Device& d = vulkan::of(device);
  Error error;
  if (status == MICA_OK) status = d.transfer.flush(d, error);
  if (status == MICA_OK) status = vulkan::wait_value(d, d.submitted, error);
  return error.code() == MICA_OK ? status : d.fail(error);
}

mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n) {
  return complete(device, vulkan::weight_pack(device, weight, buffer, rows, first, n));
}

mica_status weight_random(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          uint64_t seed) {
  return complete(device, vulkan::weight_random(device, weight, buffer, seed));
}

vulkan::Plan& of(mica_b_plan* plan) { return *reinterpret_cast<vulkan::Plan*>(plan); }

const char* variants(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                     uint32_t i) {
  const mica_b_unit& u = partition->units[unit];
  return vulkan::variant(vulkan::of(device), *partition, {u.node, u.region}, i);
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  *out = nullptr;
  Error error;
  vulkan::Device& d = vulkan::of(device);
  auto* plan = mica::create<vulkan::Plan>(d.allocator, d, *partition);
  if (plan == nullptr) return d.fail((error.out_of_memory("a plan"), error));
  const mica_status status = plan->compile(buffers, error);
  if (status != MICA_OK) {
    mica::destroy(d.allocator, plan);
    return d.fail(error);
  }
  *out = reinterpret_cast<mica_b_plan*>(plan);
  return MICA_OK;
}

mica_status submit(mica_b_plan* plan) {
  Error error;
  const mica_status status = of(plan).submit(error);
  return status == MICA_OK ? status : of(plan).device().fail(error);
}

mica_status wait(mica_b_plan* plan) {
  Error error;
  const mica_status status = of(plan).wait(error);
  return status == MICA_OK ? status : of(plan).device().fail(error);
}

void plan_release(mica_b_plan* plan) {
  if (plan != nullptr) mica::destroy(of(plan).device().allocator, &of(plan));
}

// In addition to buffers. For a plan: its command buffers, of which a unit takes up to four
// dispatches with their barriers, and what kernels keep in constant memory (Constants). Once: the
// pipelines' code (kCodeBytes), and, where the host's memory is the device's, the ring that bytes
// are staged in.
constexpr uint64_t kCodeBytes = uint64_t{32} << 20;
constexpr uint64_t kPlanBytes = uint64_t{256} << 10;
constexpr uint64_t kUnitBytes = 4096;
uint64_t reserve(mica_b_device* device, const mica_b_partition* partition) {
  if (partition != nullptr) return kPlanBytes + kUnitBytes * partition->n_units;
  return kCodeBytes + (vulkan::of(device).unified ? vulkan::Transfer::kRingBytes : uint64_t{0});
}

constexpr mica_backend kBackend = {
    sizeof(mica_backend),
    MICA_BACKEND_ABI,
    "vulkan",
    device_count,
    device_info,
    device_open,
    vulkan::close_device,
    vulkan::device_state,
    vulkan::buffer_create,
    vulkan::buffer_free,
    vulkan::buffer_import,
    vulkan::buffer_map,
    vulkan::buffer_write,
    vulkan::buffer_read,
    vulkan::buffer_copy,
    vulkan::weight_layout,
    weight_pack,
    vulkan::weight_unpack,
    weight_random,
    vulkan::kv_layout,
    vulkan::kv_pack,
    vulkan::kv_unpack,
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

const mica_backend* mica_backend_vulkan(void) { return &kBackend; }
