// softmax of scale * x + mask, a row at a time; scores stay in the thread's scratch.
#include "backends/cpu/kernels/norm.h"
#include "ops/softmax_args.h"

MICA_CPU_BEGIN
namespace {

constexpr float kInf = __builtin_inff();

float scale_of(const Call& call) { return static_cast<const mica_softmax_args*>(call.args)->scale; }
uint64_t scratch(const Call& call) { return static_cast<uint64_t>(call.out.dim[0]) * 4; }

// s = scale * x + mask. Returns the largest; NaN and +infinity come back as +infinity.
float scores(const Call& call, RowIndex r, float* s) {
  const Tensor& mask = call.in[1];
  const char* mask_row = mask.data != nullptr ? repeated_row_at(mask, r) : nullptr;
  const f32x16 scale = set1(scale_of(call));
  f32x16 largest = set1(-kInf);
  float buffer[kChunk];
  for_chunks(call.in[0], row_at(call.in[0], r), [&](const float* x, int64_t at, int64_t n) {
    const float* m = mask_row != nullptr ? read_floats(mask, mask_row, at, n, buffer) : nullptr;
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t k = min_i64(16, n - i);
      f32x16 v = load_n(x + i, k) * scale;
      if (m != nullptr) v = v + load_n(m + i, k);
      store_n(s + at + i, v, k);
      v = select(is_nan(v), set1(kInf), v);
      largest = max(largest, select(mask_first(k), v, set1(-kInf)));
    }
  });
  return reduce_max(largest);
}

void fill(float* s, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) s[i] = value;
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  float* s = reinterpret_cast<float*>(scratch_bytes);
  const int64_t n = call.out.dim[0];
  for (int64_t row = first; row < end; ++row) {
    const RowIndex r = row_index(call.out, row);
    const float largest = scores(call, r, s);
    if (largest == -kInf || largest == kInf) {
      // Nothing is visible, or there is no answer.
      fill(s, n, largest == -kInf ? 0.0f : __builtin_nanf(""));
    } else {
      const f32x16 top = set1(largest);
      f32x16 sum = zero();
      for (int64_t i = 0; i < n; i += 16) {
        const int64_t k = min_i64(16, n - i);
        const f32x16 e = exp(load_n(s + i, k) - top);
        store_n(s + i, e, k);
        sum = sum + select(mask_first(k), e, zero());
      }
      const f32x16 factor = set1(1.0f / reduce_add(sum));
      for (int64_t i = 0; i < n; i += 16) {
        const int64_t k = min_i64(16, n - i);
        store_n(s + i, load_n(s + i, k) * factor, k);
      }
    }
    write_floats(call.out, row_at(call.out, r), 0, n, s);
  }
}

void run_naive(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  float* s = reinterpret_cast<float*>(scratch_bytes);
  const int64_t n = call.out.dim[0];
  for (int64_t row = first; row < end; ++row) {
    const RowIndex r = row_index(call.out, row);
    const float largest = scores(call, r, s);
    if (largest == -kInf || largest == kInf) {
      fill(s, n, largest == -kInf ? 0.0f : __builtin_nanf(""));
    } else {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) {
        s[i] = __builtin_expf(s[i] - largest);
        sum += static_cast<double>(s[i]);
      }
      for (int64_t i = 0; i < n; ++i) {
        s[i] = static_cast<float>(static_cast<double>(s[i]) / sum);
      }
    }
    write_floats(call.out, row_at(call.out, r), 0, n, s);
  }
}

constexpr Kernel kRows[] = {
    {"softmax", "vector", 1, float_inputs, numerics_f32, nullptr, scratch, norm_items, run,
     norm_grain},
    {"softmax", "naive", 1, float_inputs, numerics_f32, nullptr, scratch, norm_items, run_naive,
     naive_grain},
};

}  // namespace
MICA_CPU_KERNELS(softmax, kRows, MICA_KNOWS(softmax, scale))
MICA_CPU_END
