// set_rows: rows to their indices in a table, converted to its dtype.
#include "backends/cpu/kernels/elements.h"

MICA_CPU_BEGIN
namespace {

int64_t items(const Call& call, uint32_t) { return call.in[2].dim[0]; }
int64_t grain(const Call& call, uint32_t) { return rows_grain(call.in[0].dim[0]); }
uint64_t scratch(const Call& call) { return static_cast<uint64_t>(call.in[0].dim[0]) * 4; }

int64_t id_at(const Tensor& ids, int64_t i) {
  const char* p = ids.data + i * ids.stride[0];
  return ids.dtype == MICA_I32 ? *reinterpret_cast<const int32_t*>(p)
                               : *reinterpret_cast<const int64_t*>(p);
}
// Of rows that go to one place the last stays, whole: so two threads never write the same row.
bool comes_again(const Tensor& ids, int64_t i, int64_t id) {
  for (int64_t j = i + 1; j < ids.dim[0]; ++j) {
    if (id_at(ids, j) == id) return true;
  }
  return false;
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  const Tensor& dst = call.out;
  const Tensor& src = call.in[1];
  const Tensor& ids = call.in[2];
  float* buffer = reinterpret_cast<float*>(scratch_bytes);
  const int64_t n = dst.dim[0];
  for (int64_t i = first; i < end; ++i) {
    const int64_t id = id_at(ids, i);
    if (id < 0 || id >= dst.dim[1] || comes_again(ids, i, id)) continue;
    char* to = dst.data + id * dst.stride[1];
    const char* from = src.data + i * src.stride[1];
    if (src.dtype == dst.dtype) {
      __builtin_memcpy(to, from, static_cast<size_t>(n * elem_bytes(dst.dtype)));
      continue;
    }
    const float* x = read_floats(src, from, 0, n, buffer);
    if (is_float(dst.dtype)) {
      write_floats(dst, to, 0, n, x);
    } else {
      mica_dtype_encode(dst.dtype, x, to, static_cast<size_t>(n));
    }
  }
}

constexpr Kernel kRows[] = {
    {"set_rows", "", 1, nullptr, numerics_exact, nullptr, scratch, items, run, grain},
};

}  // namespace
MICA_CPU_KERNELS(set_rows, kRows)
MICA_CPU_END
