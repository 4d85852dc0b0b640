// get_rows: rows of a table by their numbers, as F32. A table in any layout of weights, plain or
// quantized values of the step.
#include "backends/cuda/quant/weight_type.h"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

const char* supports(const Call& c) {
  const WeightType* type = find_weight_type(c.in[0].dtype);
  if (type == nullptr) return "the table's type is unknown here";
  if (c.out.dim[1] > INT32_MAX) return "there are more than 2^31 ids";
  if (c.out.dim[0] > INT64_C(65535) * 1024) return "rows have more than 2^26 elements";
  return nullptr;
}
uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

mica_status record(const Call& c, Recorder& r) {
  const Tensor& table = c.in[0];
  const WeightType& type = *find_weight_type(table.dtype);
  GetRowsArgs a = {};
  a.table = reinterpret_cast<const uint8_t*>(table.address);
  a.ids = reinterpret_cast<const int32_t*>(c.in[1].address);
  a.out = reinterpret_cast<float*>(c.out.address);
  a.live_ids = c.in[1].live;
  a.live_rows = table.rank == 2 ? table.live : 0;
  a.stride = table.stride[1];
  a.k = table.dim[0], a.n_rows = table.dim[1], a.n_ids = c.in[1].dim[0];
  a.type = table.dtype;
  a.packed = table.storage == MICA_B_WEIGHT && type.parts.units != 0 ? 1 : 0;
  if (a.packed && !packed_of(type.parts, a.k, a.n_rows, 1, a.layout)) return MICA_INTERNAL;
  return type.get_rows(r, a);
}

constexpr Kernel rows[] = {
    {"get_rows", "", supports, numerics, nullptr, record, gpu::takes_weight<kLayoutRows8>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(get_rows, mica::cuda::rows)
