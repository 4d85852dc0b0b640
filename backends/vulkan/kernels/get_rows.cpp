// get_rows: rows of a table by index, decoded to F32; reads weights in both layouts.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/kernels/common/weight.h"

MICA_VULKAN_SHADER(get_rows_plain)
MICA_VULKAN_WEIGHT_SHADERS(get_rows)

namespace mica::vulkan {
namespace {

constexpr uint32_t kThreads = 64;

struct Push {
  uint64_t table[kPlanes];
  uint64_t ids, y, live, live_table;
  uint32_t n, n_rows, n_ids, n_items;
};

const char* supports(const Call& c) {
  const Tensor& table = c.in[0];
  if (table.dim[0] > INT32_MAX || table.dim[1] > INT32_MAX || c.in[1].dim[0] > INT32_MAX)
    return "the table has a dimension of 2^31 or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& table = c.in[0];
  Push push{};
  push.ids = c.in[1].address;
  push.y = c.out.address;
  push.live = c.in[1].live;
  push.live_table = table.live;
  push.n = static_cast<uint32_t>(table.dim[0]);
  push.n_rows = static_cast<uint32_t>(table.dim[1]);
  push.n_ids = static_cast<uint32_t>(c.in[1].dim[0]);
  const bool packed = table.layout == kLayoutPlanes;
  push.n_items = packed ? push.n / 8 : (push.n + 3) / 4;
  const Groups groups = folded_threads(uint64_t{push.n_ids} * push.n_items, kThreads);
  if (packed) {
    plane_addresses(table, push.table);
    const Shader* shader = weight_shader(kWeightShaders_get_rows, table.dtype);
    return launch(recorder, *shader, {kThreads, 1, 1}, push, groups);
  }
  push.table[0] = table.address;
  push.table[1] = static_cast<uint64_t>(table.stride[1]);
  const uint32_t wide = is_float(table.dtype) && rows_of_fours(table) ? 1 : 0;
  return launch(recorder, shader_get_rows_plain,
                {kThreads, 1, 1, static_cast<uint32_t>(table.dtype), wide}, push, groups);
}

constexpr Kernel kRows[] = {
    {"get_rows", "", supports, numerics, nullptr, record, gpu::takes_weight<kLayoutPlanes>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(get_rows, kRows)
