// get_rows: rows of a table by index, decoded to F32. Reads weights in both layouts.
#include "backends/cpu/kernels/elements.h"
#include "backends/cpu/quant/rows16.h"

MICA_CPU_BEGIN
namespace {

int64_t items(const Call& call, uint32_t) { return call.in[1].dim[0]; }
int64_t grain(const Call& call, uint32_t) { return rows_grain(call.out.dim[0]); }

void decode_ints(const Tensor& table, const char* row, float* y) {
  for (int64_t i = 0; i < table.dim[0]; ++i) {
    const char* p = row + i * table.stride[0];
    y[i] = table.dtype == MICA_I32 ? static_cast<float>(*reinterpret_cast<const int32_t*>(p))
                                   : static_cast<float>(*reinterpret_cast<const int64_t*>(p));
  }
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Tensor& table = call.in[0];
  const Tensor& ids = call.in[1];
  const int64_t n = table.dim[0];
  for (int64_t i = first; i < end; ++i) {
    const int64_t id = *reinterpret_cast<const int32_t*>(ids.data + i * ids.stride[0]);
    float* y = reinterpret_cast<float*>(call.out.data + i * call.out.stride[1]);
    if (id < 0 || id >= table.dim[1]) {
      for (int64_t k = 0; k < n; ++k) y[k] = 0.0f;
    } else if (table.layout == kLayoutRows16) {
      decode_row16(table, id, y);
    } else if (table.dtype == MICA_I32 || table.dtype == MICA_I64) {
      decode_ints(table, table.data + id * table.stride[1], y);
    } else {
      decode_plain(table.dtype, table.data + id * table.stride[1], n, y);
    }
  }
}

bool takes(const Call&, uint32_t operand, uint32_t layout) {
  return operand == 0 && layout == kLayoutRows16;
}

constexpr Kernel kRows[] = {
    {"get_rows", "", 1, nullptr, numerics_exact, nullptr, nullptr, items, run, grain, nullptr,
     false, takes},
};

}  // namespace
MICA_CPU_KERNELS(get_rows, kRows)
MICA_CPU_END
