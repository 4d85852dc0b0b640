// Many rows of x by cuBLASLt: x and, of quantized types, w are rounded to F16 in the workspace
// (BF16 weights: x to BF16). Two things are left for one kernel after the product: rows of x that
// were scaled to fit F16 have results to be scaled back, and rows that are not live are computed
// too, so that where x has an extent, what the result holds there is put aside before and back
// after. The usual rows, live and of scale 1, cost it nothing.
#pragma once
#include "backends/cuda/cublaslt.h"
#include "backends/cuda/kernels/matmul/matmul_tiles.cuh"

namespace mica::cuda {

constexpr int64_t kLtRows = 128;  // of x, at least: fewer are not worth a dequantized w
constexpr int64_t kLtElems = int64_t{1} << 26;  // of w dequantized at a time, about
constexpr int64_t kLtStep = 256;                // rows of w at a time are a multiple of this

// Where things are in the workspace; x is at 0.
struct LtPlan {
  int64_t rows;    // of w at a time
  int64_t chunks;  // of 128 elements, of a row of x
  uint64_t factors_at, w_at, dead_at, lt_at, bytes;
};
inline uint64_t lt_aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

inline LtPlan plan_lt(const MatmulArgs& a) {
  LtPlan p = {};
  p.rows = a.n;
  if (a.packed && a.n > kLtStep && a.k <= kLtElems) {
    const int64_t parts = div_up(a.n, div_up(kLtElems, a.k));
    p.rows = div_up(div_up(a.n, parts), kLtStep) * kLtStep;
    if (p.rows > a.n) p.rows = a.n;
  }
  p.chunks = div_up(a.k, kChunkElems);
  p.factors_at = lt_aligned(uint64_t(a.m * p.chunks * kChunkElems) * 2);
  p.w_at = p.factors_at + lt_aligned(uint64_t(a.m) * 4);
  p.dead_at = p.w_at + (a.packed ? lt_aligned(uint64_t(p.rows * a.k) * 2) : 0);
  p.lt_at = p.dead_at + (a.live != 0 ? lt_aligned(uint64_t(a.m * a.n) * 4) : 0);
  p.bytes = p.lt_at + kLtWorkspaceBytes;
  return p;
}
// The product of `rows` rows of w with all of x.
inline LtShape lt_shape(const MatmulArgs& a, const LtPlan& p, int64_t rows) {
  return {rows,
          a.m,
          a.k,
          a.packed ? a.k : a.w_stride[0] / 2,
          p.chunks * kChunkElems,
          a.n,
          a.w_type == MICA_BF16};
}

struct FinishArgs {
  float* out;            // [n, m]; n is a multiple of 4
  const float* kept;     // the same of rows that are not live, before the product
  const float* factors;  // of live rows
  uint64_t live;
  int64_t n, m;
};
mica_status launch_finish(Recorder& r, const FinishArgs& a);  // kernels/matmul.cu

// nullptr: a product of x and w in 16 bits is possible, and worth to round them first.
inline const char* halves_support(const MatmulArgs& a, const WeightType& type) {
  if (a.w_type != MICA_F16 && a.w_type != MICA_BF16 && type.halve == nullptr)
    return "w's type is not rounded to F16";
  if (type.halve != nullptr && !a.packed) return "quantized values of the step are not packed";
  if (!a.packed && a.w_stride[0] % 16 != 0)
    return "rows of w do not start at multiples of 16 bytes";
  if (!a.packed && reinterpret_cast<uint64_t>(a.w) % 16 != 0)
    return "w does not start at a multiple of 16 bytes";
  if (reinterpret_cast<uint64_t>(a.out) % 16 != 0)
    return "the result does not start at a multiple of 16 bytes";
  if (a.b2 * a.b3 != 1) return "there are several slices";
  if (a.live != 0 && a.rank != 2) return "the extent is not that of rows";
  if (a.m < kLtRows) return "x has fewer than 128 rows";
  if (a.n < 512 || a.k < 256) return "w is small";
  if (a.k % 8 != 0 || a.n % 4 != 0) return "rows are not whole 16 bytes";
  if (a.k > kLtElems || a.n > kLtElems || a.m > kLtElems) return "rows or columns are too many";
  return nullptr;
}

inline const char* lt_supports(const Call& c, const MatmulArgs& a, const WeightType& type) {
  const DeviceInfo& device = device_of(c);
  if (device.lt == nullptr) return "cuBLASLt is not to be used on this device";
  if (const char* why = halves_support(a, type); why != nullptr) return why;
  const LtPlan p = plan_lt(a);
  const char* why = device.lt->supports(lt_shape(a, p, p.rows));
  if (why == nullptr && a.n % p.rows != 0) why = device.lt->supports(lt_shape(a, p, a.n % p.rows));
  return why;
}

inline mica_status record_lt_product(Recorder& r, const MatmulArgs& a, const WeightType& type) {
  const LtPlan p = plan_lt(a);
  auto* workspace = static_cast<uint8_t*>(a.workspace);
  auto* kept = reinterpret_cast<float*>(workspace + p.dead_at);
  auto* factors = reinterpret_cast<float*>(workspace + p.factors_at);
  PrepareArgs prepare = {a, workspace, nullptr, factors, p.chunks, a.m, 0, 1, nullptr};
  prepare.bf16 = a.w_type == MICA_BF16 ? 1 : 0;
  if (a.live != 0) prepare.kept = reinterpret_cast<float4*>(kept);
  if (const mica_status status = launch_prepare(r, prepare); status != MICA_OK) return status;
  auto* half_w = reinterpret_cast<uint16_t*>(workspace + p.w_at);
  for (int64_t first = 0; first < a.n; first += p.rows) {
    const int64_t rows = first + p.rows < a.n ? p.rows : a.n - first;
    if (a.packed) {
      const HalveArgs halve = {a.w, half_w, a.layout, a.k, first, rows};
      if (const mica_status status = type.halve(r, halve); status != MICA_OK) return status;
    }
    const LtOperands operands = {a.packed ? reinterpret_cast<const uint8_t*>(half_w) : a.w,
                                 workspace, a.out + first, workspace + p.lt_at};
    if (r.error != cudaSuccess) return MICA_INTERNAL;
    // While preparing too, for what it loads: a plan's arena holds nothing yet.
    if (!r.device->lt->multiply(lt_shape(a, p, rows), operands, r.stream)) return MICA_INTERNAL;
    r.cleared = true;  // its kernels let none start early, and it may clear memory
  }
  if (a.live == 0 && prepare.bf16 != 0) return MICA_OK;
  return launch_finish(r, {a.out, kept, factors, a.live, a.n, a.m});
}

}  // namespace mica::cuda
