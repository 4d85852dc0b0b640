// Plain rows times plain columns: both run along K, so elements meet 16 at a time and lanes are
// summed at the end. For computed tensors and for quantized inputs of the step; and the naive
// kernel.
#pragma once
#include "backends/cpu/quant/prepare.h"

MICA_CPU_BEGIN
namespace plain_rows {

constexpr int64_t kBlockRows = 16;  // rows of w turned into floats at a time

static inline const char* supports(const Call& c) {
  const mica_dtype x = c.in[1].dtype;
  if (find_rows16(c.in[0].dtype) == nullptr || find_rows16(c.in[0].dtype)->blocks == 0) {
    return "w is not of a type that can be multiplied";
  }
  return x == MICA_F32 || x == MICA_F16 || x == MICA_BF16 ? nullptr : "x is not F32, F16 or BF16";
}
static inline uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static inline int64_t padded(const Call& c) { return div_up_i64(c.in[1].dim[0], 16) * 16; }
static inline uint64_t scratch(const Call& c) {
  return static_cast<uint64_t>((kBlockRows + 1) * padded(c)) * sizeof(float);
}
static inline int64_t row_blocks(const Call& c) { return div_up_i64(c.in[0].dim[1], kBlockRows); }
// One item: 16 rows of w times one slice of x.
static inline int64_t items(const Call& c, uint32_t) {
  return row_blocks(c) * c.in[1].dim[2] * c.in[1].dim[3];
}

// Row i1 of w's slice that meets slice (i2, i3) of x.
static inline const char* row_of(const Call& c, int64_t i1, int64_t i2, int64_t i3) {
  const Tensor& w = c.in[0];
  const int64_t j2 = i2 / (c.in[1].max_slices[0] / w.dim[2]);
  const int64_t j3 = i3 / (c.in[1].max_slices[1] / w.dim[3]);
  return w.data + i1 * w.stride[1] + j2 * w.stride[2] + j3 * w.stride[3];
}

// kRows rows, s_w floats apart, times one column; n is any length.
template <int kRows>
static inline void dot_rows(const float* w, int64_t s_w, const float* x, int64_t n, float* out) {
  f32x16 sum[kRows];
  MICA_UNROLL
  for (int r = 0; r < kRows; ++r) sum[r] = zero();
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const f32x16 v = load(x + k);
    MICA_UNROLL
    for (int r = 0; r < kRows; ++r) sum[r] = fma(load(w + r * s_w + k), v, sum[r]);
  }
  if (k < n) {
    const f32x16 v = load_n(x + k, n - k);
    MICA_UNROLL
    for (int r = 0; r < kRows; ++r) sum[r] = fma(load_n(w + r * s_w + k, n - k), v, sum[r]);
  }
  MICA_UNROLL
  for (int r = 0; r < kRows; ++r) out[r] = reduce_add(sum[r]);
}

// n elements of a row as floats; F32 rows stay where they are.
static inline const float* floats_of(mica_dtype dtype, const char* row, int64_t n, float* buffer) {
  if (dtype == MICA_F32) return reinterpret_cast<const float*>(row);
  if (dtype == MICA_F16 || dtype == MICA_BF16) {
    for (int64_t k = 0; k < n; k += 16) as_floats<16>(dtype, row + 2 * k, n - k, buffer + k);
  } else {
    decode_plain(dtype, row, n, buffer);
  }
  return buffer;
}

static inline void run(const Call& c, uint32_t, int64_t first, int64_t end, char* thread_scratch) {
  const Tensor& w = c.in[0];
  const Tensor& x = c.in[1];
  const int64_t n = x.dim[0];
  float* const w_rows = reinterpret_cast<float*>(thread_scratch);
  float* const x_row = w_rows + kBlockRows * padded(c);
  for (int64_t item = first; item < end; ++item) {
    const int64_t begin = item % row_blocks(c) * kBlockRows;
    const int64_t n_rows = min_i64(kBlockRows, w.dim[1] - begin);
    const int64_t i2 = item / row_blocks(c) % x.dim[2];
    const int64_t i3 = item / row_blocks(c) / x.dim[2];
    const float* rows = reinterpret_cast<const float*>(row_of(c, begin, i2, i3));
    int64_t s_row = w.stride[1] / 4;
    if (w.dtype != MICA_F32) {
      for (int64_t r = 0; r < n_rows; ++r) {
        floats_of(w.dtype, row_of(c, begin + r, i2, i3), n, w_rows + r * padded(c));
      }
      rows = w_rows;
      s_row = padded(c);
    }
    for (int64_t i1 = 0; i1 < x.dim[1]; ++i1) {
      const float* column = floats_of(
          x.dtype, x.data + i1 * x.stride[1] + i2 * x.stride[2] + i3 * x.stride[3], n, x_row);
      char* out_row =
          c.out.data + i1 * c.out.stride[1] + i2 * c.out.stride[2] + i3 * c.out.stride[3];
      float* out = reinterpret_cast<float*>(out_row) + begin;
      int64_t r = 0;
      for (; r + 4 <= n_rows; r += 4) dot_rows<4>(rows + r * s_row, s_row, column, n, out + r);
      for (; r < n_rows; ++r) dot_rows<1>(rows + r * s_row, s_row, column, n, out + r);
    }
  }
}

// One item: one row of w, decoded, times every column that meets it.
static inline int64_t naive_items(const Call& c, uint32_t) {
  return c.in[0].dim[1] * c.in[0].dim[2] * c.in[0].dim[3];
}
static inline uint64_t naive_scratch(const Call& c) {
  return static_cast<uint64_t>(2 * padded(c)) * sizeof(float);
}
static inline void naive_run(const Call& c, uint32_t, int64_t first, int64_t end,
                             char* thread_scratch) {
  const Tensor& w = c.in[0];
  const Tensor& x = c.in[1];
  const int64_t n = x.dim[0];
  float* const buffer = reinterpret_cast<float*>(thread_scratch);
  const int64_t per2 = x.max_slices[0] / w.dim[2];
  const int64_t per3 = x.max_slices[1] / w.dim[3];
  for (int64_t item = first; item < end; ++item) {
    const int64_t i_row = item % w.dim[1];
    const int64_t j2 = item / w.dim[1] % w.dim[2];
    const int64_t j3 = item / w.dim[1] / w.dim[2];
    // Live slices of x that meet this one of w.
    const int64_t n2 = min_i64(per2, x.dim[2] - j2 * per2),
                  n3 = min_i64(per3, x.dim[3] - j3 * per3);
    if (n2 <= 0 || n3 <= 0) continue;
    const float* row = buffer;
    if (w.layout == kLayoutRows16) {
      decode_row16(w, item, buffer);
    } else {
      row = floats_of(w.dtype, row_of(c, i_row, j2 * per2, j3 * per3), n, buffer);
    }
    for (int64_t i = 0; i < x.dim[1] * n2 * n3; ++i) {
      const int64_t i1 = i % x.dim[1];
      const int64_t i2 = j2 * per2 + i / x.dim[1] % n2;
      const int64_t i3 = j3 * per3 + i / x.dim[1] / n2;
      const float* column =
          floats_of(x.dtype, x.data + i1 * x.stride[1] + i2 * x.stride[2] + i3 * x.stride[3], n,
                    buffer + padded(c));
      float sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += row[k] * column[k];
      char* out = c.out.data + i1 * c.out.stride[1] + i2 * c.out.stride[2] + i3 * c.out.stride[3];
      reinterpret_cast<float*>(out)[i_row] = sum;
    }
  }
}

}  // namespace plain_rows
MICA_CPU_END
