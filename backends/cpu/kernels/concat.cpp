// concat: b behind a along one dimension, bit by bit.
#include "backends/cpu/kernels/elements.h"
#include "ops/concat_args.h"

MICA_CPU_BEGIN
namespace {

int64_t items(const Call& call, uint32_t) { return rows_of(call.out); }
int64_t grain(const Call& call, uint32_t) { return rows_grain(call.out.dim[0]); }

// n units (elements or blocks) of `bytes` each, any distance apart, to one run of bytes.
void gather(const char* src, int64_t stride, int64_t n, int64_t bytes, char* dst) {
  if (stride == bytes) {
    __builtin_memcpy(dst, src, static_cast<size_t>(n * bytes));
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    __builtin_memcpy(dst + i * bytes, src + i * stride, static_cast<size_t>(bytes));
  }
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const uint32_t dim = static_cast<const mica_concat_args*>(call.args)->dim;
  const Tensor& a = call.in[0];
  const Tensor& b = call.in[1];
  const mica_dtype_info* info = mica_dtype_get(a.dtype);
  const int64_t bytes = info->block_bytes;
  const int64_t a_units = a.dim[0] / info->block_elems;
  const int64_t b_units = b.dim[0] / info->block_elems;
  for (int64_t row = first; row < end; ++row) {
    RowIndex r = row_index(call.out, row);
    char* out = row_at(call.out, r);
    if (dim == 0) {
      gather(row_at(a, r), a.stride[0], a_units, bytes, out);
      gather(row_at(b, r), b.stride[0], b_units, bytes, out + a_units * bytes);
      continue;
    }
    const bool in_b = r.i[dim - 1] >= a.dim[dim];
    if (in_b) r.i[dim - 1] -= a.dim[dim];
    const Tensor& from = in_b ? b : a;
    gather(row_at(from, r), from.stride[0], a_units, bytes, out);
  }
}

constexpr Kernel kRows[] = {
    {"concat", "", 1, nullptr, numerics_exact, nullptr, nullptr, items, run, grain},
};

}  // namespace
MICA_CPU_KERNELS(concat, kRows, MICA_KNOWS(concat, dim))
MICA_CPU_END
